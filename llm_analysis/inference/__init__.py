"""Latency and memory of a static batch.

workload    batch, lengths and serving options; the passes of prefill and decode
methods     efficiencies by method: ideal, published, calibrated
published   the block-level model of the published FasterTransformer example
runtimes    host time and kernel factors of inference engines
pipeline    pipeline parallelism: micro-batches through stages
memory      weights, KV cache and activations of one GPU; what would make a model fit
analysis    LLMAnalysis: one scenario, one estimate after another
estimate    the record of an answer
explain     where the time goes, and what would save it
"""
