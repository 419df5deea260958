"""Decisions: many estimates at once, and the choice among them.

ranges   lists and ranges of flag values: 1,2,4 and 1:256 and 512:8192:512 and 1:4096:*2
launch   launch commands of vLLM, SGLang and TensorRT-LLM
where    conditions on columns: tpot<20ms and fits=1
"""
