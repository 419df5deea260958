"""The command line: flags in, an answer out.

main       entry point, dispatch, exit status
flags      parse flags; help text
question   model, GPU, layout and workload from flags
output     what a command returns: text, files, notes; printing and writing them
commands   one file per group of commands
"""
