"""Latency and memory of a static batch. A file imports only files that stand below it in this list.

question    a scenario and a workload from names and keywords
explain     where the time goes, and what would shorten it
analysis    estimate(scenario, workload), and LLMAnalysis in front of it
estimate    the record of an answer
memory      weights, KV cache and activations of one GPU; changes that would make a model fit
bands       error bands around an estimate
passes      prefill and decode as timed operators; drafts and the transfer of a cache
pipeline    pipeline parallelism: micro-batches through stages
scenario    model, GPU, formats, layout, method and runtime, validated once
methods     efficiencies by method: ideal, published, calibrated
published   the block-level model of the published FasterTransformer example
host_terms  host times of a server beside the GPU's, fitted to published runs
engines     schedulers and server defaults of inference engines
runtimes    host time and kernel factors of inference engines
workload    batch, lengths and serving options; the passes of prefill and decode
"""
