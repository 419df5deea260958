"""The decode steps of one answer, as a few passes that stand for all of them.

Step i of n - 1 (the prefill gives the first token) sees s + i cached tokens. Its time is smooth in the context, but for
kinks where a window fills up. So the sum over all steps is taken by Gauss-Legendre with four nodes on each stretch
between kinks, each step standing for the unit interval around it: exact for a time that is linear in the context, and
within 1e-4 of the token loop in the tests. No answer is ever taken "at the average context".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Step
from llm_analysis.scenario import Workload

# Abscissae and weights of the four-point Gauss-Legendre rule on (-1, 1); weights halved, so that they sum to 1.
# Abramowitz and Stegun, Handbook of Mathematical Functions, table 25.4.
FOUR_POINTS = (
    (-0.861136311594052575224, 0.173927422568726928687),
    (-0.339981043584856264803, 0.326072577431273071313),
    (0.339981043584856264803, 0.326072577431273071313),
    (0.861136311594052575224, 0.173927422568726928687),
)


def nodes(first: float, count: float, kinks: Iterable[float] = ()) -> Iterator[tuple[float, float]]:
    """(weight, x) that average a function over x = first, first + 1, ... (`count` points). The weights sum to 1."""
    low, high = first - 0.5, first + count - 0.5
    edges = [low, *sorted({kink for kink in kinks if low < kink < high}), high]
    for left, right in pairwise(edges):
        middle, half = (left + right) / 2, (right - left) / 2
        for abscissa, weight in FOUR_POINTS:
            yield weight * (right - left) / count, middle + half * abscissa


def decode_passes(model: ModelConfig, workload: Workload) -> Iterator[tuple[float, Step]]:
    """(weight, pass) whose weighted sum is the mean decode step of `workload`; weights sum to 1.

    Without a KV cache each step computes the whole sequence anew.
    """
    b, s = float(workload.batch_size_per_gpu), float(workload.seq_len)
    steps = max(workload.num_tokens_to_generate - 1, 1)
    if not workload.use_kv_cache:
        yield from ((weight, Step(b, x + 1)) for weight, x in nodes(s, steps))
        return
    for weight, context in nodes(s, steps, model.decode_kinks):
        yield weight, Step(b, 1.0, context, "decode")
