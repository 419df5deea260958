"""Compare estimates: every quantity, its ratio to the first estimate, and the operators that make the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llm_analysis.errors import BadValue
from llm_analysis.inference.estimate import Estimate

LEAST, MOST = 2, 6  # least and most estimates in a comparison
EXPLAINED = 0.8  # fraction of a difference that the listed operators explain
MOST_CAUSES = 5
PHASES = ("prefill", "decode")
# Results of an estimate that are compared, in the order of the report. The JSON keys of infer.
_QUANTITIES = (
    "prefill_latency",
    "decode_latency",
    "total_latency",
    "prefill_tokens_per_sec",
    "decode_tokens_per_sec",
    "total_tokens_per_sec",
    "request_tokens_per_sec",
    "num_gpus",
    "weight_memory_per_gpu",
    "kv_cache_memory_per_gpu",
    "activation_memory_per_gpu",
    "runtime_memory_per_gpu",
    "memory_left_per_gpu",
    "max_batch_size_per_gpu",
    "max_context_len",
    "cost_per_million_tokens",
)


class Row(NamedTuple):
    """One quantity: its value in each estimate, and the ratio to the first estimate; None if that is undefined."""

    name: str
    values: tuple[float | None, ...]
    ratios: tuple[float | None, ...]


class Cause(NamedTuple):
    """The part of a difference that one operator makes; `bound` is its limit in the slower estimate."""

    operator: str
    seconds: float
    share: float  # fraction of the difference
    bound: str


class Difference(NamedTuple):
    """The difference in seconds of a phase between a scenario, given by index, and the first one, with its causes."""

    scenario: int
    phase: str
    seconds: float
    causes: tuple[Cause, ...]


class Comparison(NamedTuple):
    """Estimates, their quantities, and the differences of each to the first."""

    estimates: tuple[Estimate, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; the estimates without their operators."""
        hidden = ("operators", "notes")
        return {
            "scenarios": [{k: v for k, v in e.as_dict().items() if k not in hidden} for e in self.estimates],
            "quantities": [row._asdict() for row in self.rows],
            "differences": [d._asdict() | {"causes": [c._asdict() for c in d.causes]} for d in self.differences],
        }


def compare(estimates: Sequence[Estimate]) -> Comparison:
    """Return the comparison of two to six estimates. Raises BadValue for another number of them."""
    if not LEAST <= len(estimates) <= MOST:
        several = "give a flag several values, such as --gpu_name h100-sxm-80gb,h200-sxm-141gb"
        hint = several if len(estimates) < LEAST else "sweep takes any number"
        raise BadValue(f"compare takes {LEAST} to {MOST} scenarios, not {len(estimates)}; {hint}")
    rows = (_row(name, estimates) for name in _QUANTITIES)
    first = estimates[0]
    pairs = [(i, phase) for i in range(1, len(estimates)) for phase in PHASES]
    return Comparison(
        tuple(estimates),
        tuple(row for row in rows if any(value is not None for value in row.values)),
        tuple(_difference(i, phase, first, estimates[i]) for i, phase in pairs),
    )


def _row(name: str, estimates: Sequence[Estimate]) -> Row:
    """Return one quantity of all estimates."""
    values = tuple(getattr(e, name) for e in estimates)
    return Row(name, values, tuple(_ratio(value, values[0]) for value in values))


def _ratio(value: float | None, first: float | None) -> float | None:
    """Return the ratio of a value to the first; None if one is missing or negative, or the first is 0."""
    return None if value is None or not first or first < 0 or value < 0 else value / first


def _difference(index: int, phase: str, first: Estimate, other: Estimate) -> Difference:
    """Return the difference of a phase's latency, with the operators that cover most of it, largest first."""
    before, after = _seconds(first, phase), _seconds(other, phase)
    latency = f"{phase}_latency"
    total = getattr(other, latency) - getattr(first, latency)
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in before | after}
    bounds = {row.name: row.bound for row in (other if total > 0 else first).operators if row.phase == phase}
    causes: list[Cause] = []
    ordered = sorted(changes, key=lambda name: -changes[name] if total > 0 else changes[name])
    for name in ordered:
        share = changes[name] / total if total else 0.0
        if share <= 0 or len(causes) == MOST_CAUSES or sum(cause.share for cause in causes) >= EXPLAINED:
            break
        causes.append(Cause(name, changes[name], share, bounds.get(name, "nothing")))
    return Difference(index, phase, total, tuple(causes))


def _seconds(e: Estimate, phase: str) -> dict[str, float]:
    """Return the seconds of each operator of a phase by name."""
    return {row.name: row.seconds for row in e.operators if row.phase == phase}
