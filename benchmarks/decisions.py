"""How fast sweeps and plans are, as ratios to single estimates on the same machine.

    python benchmarks/decisions.py

A ratio does not depend on how fast or how busy the machine is. Goals, from figures of one core: an estimate on open
axes 2,000,000 per second for a dense model, 1,000,000 for DeepSeek-V3, 15,000 scenarios per second over the catalogue;
one estimate takes about 0.9 ms on such a core.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

from llm_analysis import plan
from llm_analysis.api import _defaults
from llm_analysis.catalog import names
from llm_analysis.explore.sweep import Sweep
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.question import question

FIVE = ["h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm", "a100-sxm-80gb", "l40s-48gb"]
LENGTHS = {"batch_size_per_gpu": "1:64:1", "seq_len": "128:8192:128", "num_tokens_to_generate": "100:355:1"}


def cpu_seconds(run: Callable[[], object], repeat: int = 3) -> float:
    """Return the CPU seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def drained(sweep: Sweep) -> float:
    """Compute latencies and memory of all points of a sweep, and return a sum over them."""
    return sum(float(b.column("total_latency").sum()) + int(b.column("fits").sum()) for b in sweep.blocks())


def one(flags: dict[str, Any]) -> float:
    """Return the CPU seconds of one scalar estimate: prefill, decode, memory."""
    scenario, workload = question(flags | {"batch_size_per_gpu": 8, "seq_len": 2000, "num_tokens_to_generate": 200})

    def run() -> None:
        for _ in range(50):
            answer = estimate(scenario, workload)
            _ = answer.total_latency, answer.fits

    return cpu_seconds(run) / 50


def main() -> None:
    for model, dtype, tp in (("llama-3.1-70b", "fp8", 4), ("deepseek-v3", "fp8_block", 8)):
        flags = _defaults() | {"model_name": model, "gpu_name": "h200-sxm-141gb", "dtype_name": dtype, "tp_size": tp}
        alone, sweep = one(flags), Sweep(flags | LENGTHS)
        seconds = cpu_seconds(lambda sweep=sweep: drained(sweep)) / sweep.points  # type: ignore[misc]
        print(
            f"{model}: one estimate {alone * 1e3:.2f} ms; a point of {sweep.points:,} on open axes is "
            f"{alone / seconds:,.0f} times as fast ({1 / seconds:,.0f}/s)"
        )
    gpus = names("gpu_configs")
    flags = _defaults() | {"model_name": "llama-3.1-70b", "gpu_name": gpus, "dtype_name": "bf16,fp8,int4"}
    flags |= {"tp_size": "1,2,4,8", "batch_size_per_gpu": 16, "seq_len": 2000}
    together, single = Sweep(flags), Sweep(flags)
    single._groups_gpus = lambda: False  # type: ignore[method-assign]
    fast, slow = (cpu_seconds(lambda s=s: drained(s)) for s in (together, single))  # type: ignore[misc]
    print(
        f"{together.points:,} scenarios on {len(gpus)} GPUs: all GPUs at once {slow / fast:.1f} times as fast as one "
        f"after another ({together.points / fast:,.0f}/s)"
    )
    for name, which in (("five GPUs", FIVE), ("all GPUs", gpus)):
        start = time.process_time()
        found = plan("llama-3.1-70b", which, seq_len=4000, num_tokens_to_generate=500, request_rate=5, max_tpot="20ms")
        seconds = time.process_time() - start
        print(
            f"plan on {name}: {found.points:,} points in {seconds:.2f} s of CPU time, "
            f"{alone * found.points / seconds:.0f} times as fast as one by one"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
