"""GPUs, the time of a kernel on a GPU, and fitted kernel profiles.

gpu        datasheet facts of a GPU, and its links
roofline   the cost line: seconds of one operator
profiles   fitted efficiencies by GPU, kind of kernel and format, with fallbacks and evidence
"""
