"""The decode steps of one answer, as a few passes that stand for all of them.

Step i of n - 1 (the prefill gives the first token) sees s + i cached tokens. Its time is smooth in the context, but for
kinks and jumps where a window fills up or a chunk begins. So the steps are cut into stretches there; a short stretch is
taken step by step, a longer one by Gauss-Legendre with four nodes, each step standing for the unit interval around it:
exact for a time that is linear in the context, as it is under `ideal`. Without a cache operators turn from one bound to
the other inside a stretch: within 1e-3 of the token loop in the tests. No answer is taken "at the average context".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import floor

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
# Steps in a stretch up to which each is taken by itself; beyond, all four nodes lie between the first and the last.
FEW = 8
# Stretches of a decode without a cache, where every matrix turns from memory-bound to compute-bound on the way.
STRETCHES = 16


def nodes(first: int, count: int, kinks: Iterable[float] = ()) -> Iterator[tuple[float, float]]:
    """(weight, x) that average a function over x = first, first + 1, ... (`count` points). The weights sum to 1.

    A point at a kink belongs to the stretch before it.
    """
    edges = {floor(kink) + 1 for kink in kinks if first <= kink < first + count - 1}
    for start, end in pairwise([first, *sorted(edges), first + count]):
        if end - start <= FEW:
            yield from ((1 / count, float(x)) for x in range(start, end))
            continue
        middle, half = (start + end - 1) / 2, (end - start) / 2
        for abscissa, weight in FOUR_POINTS:
            yield weight * (end - start) / count, middle + half * abscissa


def decode_passes(model: ModelConfig, workload: Workload) -> Iterator[tuple[float, Step]]:
    """(weight, pass) whose weighted sum is the mean decode step of `workload`; weights sum to 1.

    Without a KV cache each step computes the whole sequence anew.
    """
    b, s = float(workload.num_sequences), workload.seq_len
    steps = max(workload.num_tokens_to_generate - 1, 1)
    if not workload.use_kv_cache:
        cuts = [s + steps * i / STRETCHES for i in range(1, STRETCHES)]
        yield from ((weight, Step(b, x + 1)) for weight, x in nodes(s, steps, cuts))
        return
    for weight, context in nodes(s, steps, model.decode_kinks):
        yield weight, Step(b, 1.0, context, "decode")
