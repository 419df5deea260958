"""Latency and memory of a static batch.

question    a scenario and a workload from names and keywords
scenario    model, GPU, formats, layout, method and runtime, validated once
workload    batch, lengths and serving options; the passes of prefill and decode
methods     efficiencies by method: ideal, published, calibrated
published   the block-level model of the published FasterTransformer example
runtimes    host time and kernel factors of inference engines
engines     schedulers and server defaults of inference engines
host_terms  host times of a server beside the GPU's, fitted to published runs
bands       error bands around an estimate
passes      prefill and decode as timed operators; drafts and the transfer of a cache
pipeline    pipeline parallelism: micro-batches through stages
memory      weights, KV cache and activations of one GPU; changes that would make a model fit
analysis    estimate(scenario, workload), and LLMAnalysis in front of it
estimate    the record of an answer
explain     where the time goes, and what would shorten it
"""
