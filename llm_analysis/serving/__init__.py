"""Serving under load: requests that arrive, queue, are batched continuously and share a KV cache.

arrivals      arrival times of requests
lengths       lengths of requests: fixed, uniform, public workloads, traces
policies      scheduler, KV cache and host time of an engine for a scenario
step_times    tables of step times, built once per scenario from the operators
scheduler     discrete-event simulation of one replica
simulation    replicas behind a router, prefill and decode workers
metrics       TTFT, TPOT, ITL and latency of a run, as benchmarks report them
server        a server in full: its runs, its saturation rate, its goodput
server_bands  error bands of a server's metrics, from published runs
steady_state  closed form at a fixed concurrency, for numbers and arrays
load          the answer of the command `load`
"""
