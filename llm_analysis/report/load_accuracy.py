"""The score of simulated serving as text, JSON and CSV: the answer of `validate --load`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from llm_analysis.calibration.load_runs import LoadRun
from llm_analysis.calibration.load_scores import LoadScore, errors_by_class
from llm_analysis.report.tables import csv_of, table

Scored = Sequence[tuple[LoadRun, LoadScore]]


def rendered(scored: Scored, goodput: Scored, skipped: Sequence[tuple[str, str]], style: str) -> str:
    """Return the score in one of the output formats; JSON and CSV list all values."""
    rows = [row._asdict() for _, row in scored]
    classes = errors_by_class([*scored, *goodput])
    if style == "csv":
        return csv_of(rows)
    if style == "json":
        answer = {
            "classes": [found._asdict() for found in classes],
            "rows": rows,
            "goodput": [row._asdict() for _, row in goodput],
            "skipped": [{"id": name, "reason": reason} for name, reason in skipped],
        }
        return json.dumps(answer, indent=2)
    heads = ["metric", "values", "median |error|", "p90 |error|", "bias"]
    cells = [
        [c.metric_class, f"{c.n:,}", f"{c.median_abs_error:.1%}", f"{c.p90_abs_error:.1%}", f"{c.bias:+.1%}"]
        for c in classes
    ]
    sources = len({run.source for run, _ in scored})
    runs = len({id(run) for run, _ in scored})
    title = f"{len(rows):,} values of {runs:,} runs from {sources} sources; each source, model and GPU weighs the same"
    reasons = [f"skipped {n}: {reason}" for reason, n in Counter(reason for _, reason in skipped).most_common()]
    return "\n".join([title, "", table(cells, heads, style), *reasons])
