"""The closed form against simulations of random closed loops."""

from math import inf
from random import Random

import numpy as np

from llm_analysis import Parallelism, get_dtypes, get_gpu, get_model, get_runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.serving.lengths import uniform
from llm_analysis.serving.metrics import summarize
from llm_analysis.serving.server import Workload, build_server
from llm_analysis.serving.steady_state import steady_state

LOOPS = 24
SERVERS = (
    ("llama-3.1-8b", "h100-sxm-80gb", "bf16", 1),
    ("llama-3.1-70b", "h100-sxm-80gb", "fp8", 4),
    ("gpt-oss-120b", "h100-sxm-80gb", "bf16+mxfp4", 2),
    ("qwen3-30b-a3b", "a100-sxm-80gb", "bf16", 1),
)
RUNTIMES = ("vllm-v1", "vllm-0.13", "vllm", "sglang", "tensorrt-llm")


def test_random_closed_loops_are_as_the_simulation() -> None:
    """The bounds are on the 90th percentile of |closed form / simulation - 1|."""
    random = Random(3)
    errors = []
    for i in range(LOOPS):
        model, gpu, dtype, tp_size = SERVERS[i % len(SERVERS)]
        seq_len, tokens, concurrency = (int(2 ** random.uniform(*ends)) for ends in ((5, 13), (3.5, 9), (1, 6)))
        scenario = Scenario.of(
            get_model(model),
            get_gpu(gpu),
            get_dtypes(dtype),
            Parallelism(tp_size=tp_size),
            runtime=get_runtime(RUNTIMES[i % len(RUNTIMES)]),
        )
        found = steady_state(scenario, seq_len, tokens, concurrency)
        server = build_server(scenario, 1.3 * seq_len + 1.5 * tokens + 2, seq_len + tokens / 2)
        workload = Workload(uniform(seq_len, 0.3), uniform(tokens, 0.5))
        measured = summarize(server.run(workload.requests(20 * concurrency + 200, inf), concurrency), steady=True)
        ratios = (
            found.request_throughput / measured.request_throughput,
            found.tpot / measured.tpot.mean,
            found.ttft / measured.ttft.mean,
        )
        errors.append([float(ratio) - 1 for ratio in ratios])
    assert (np.quantile(np.abs(errors), 0.9, axis=0) < (0.04, 0.05, 0.18)).all()
