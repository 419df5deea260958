"""How fast one estimate and 100,000 prefill points are, and how far a point of an array is from the same point alone.

    python benchmarks/estimates.py

Targets: 1 ms for an estimate, 0.1 s for the points, 1e-12 for the relative difference.
"""

import timeit

import numpy as np

from llm_analysis import LLMAnalysis, get_dtypes, get_gpu, get_model
from llm_analysis.physics.operators import Step

POINTS = 100_000
COMPARED = 500  # number of points that are also computed alone


def best_seconds(statement: "timeit._Stmt", number: int, repeat: int = 7) -> float:
    """Return the seconds of one run in the fastest of `repeat` rounds."""
    return min(timeit.repeat(statement, number=number, repeat=repeat)) / number


def main() -> None:
    for method in ("calibrated", "ideal"):
        show(
            method, LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("a100-sxm-80gb"), get_dtypes("bf16"), method=method)
        )


def show(method: str, analysis: LLMAnalysis) -> None:
    """Print the three figures of one method."""
    one = best_seconds(
        lambda: analysis.inference(batch_size_per_gpu=4, seq_len=2048, num_tokens_to_generate=256), 10, 50
    )
    print(f"{method}: one estimate (prefill, decode, memory)  {one * 1e3:8.3f} ms   target 1 ms")

    batches, prompts = np.linspace(1.0, 64.0, POINTS), np.linspace(1.0, 131072.0, POINTS)
    step = Step(batches, prompts)
    many = best_seconds(lambda: analysis.seconds(step), 1)
    print(f"{method}: {POINTS:,} prefill points on array axes {many * 1e3:8.1f} ms   target 100 ms")

    together, picked = np.asarray(analysis.seconds(step)), range(0, POINTS, POINTS // COMPARED)
    alone = np.array([analysis.seconds(Step(float(batches[i]), float(prompts[i]))) for i in picked])
    deviation = float(np.max(np.abs(together[:: POINTS // COMPARED] / alone - 1)))
    print(f"{method}: largest relative difference to a scalar {deviation:8.1e}      target 1e-12")


if __name__ == "__main__":
    main()
