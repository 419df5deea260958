"""Decisions: many estimates at once, and the choice among them.

sweep    estimates of all combinations, in blocks
plan     search for the cheapest way to serve a model
plan_flags  a plan from names and keywords
verify   simulation of a configuration
many     estimates of many GPUs at once
steady   continuous batching in closed form
columns  JSON keys of infer as numpy columns
table    rows of estimates: select, sort, convert
writers  files of rows: CSV, JSON Lines, Parquet
combinations   all combinations of flag values
ranges   lists and ranges of flag values: 1,2,4 and 1:256 and 512:8192:512 and 1:4096:*2
compare  quantities, ratios, and the operators that cause a difference
launch   launch commands of vLLM, SGLang and TensorRT-LLM
where    conditions on columns: tpot<20ms and fits=1
"""
