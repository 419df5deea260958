"""A comparison as text: tables, Markdown, JSON, CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llm_analysis.explore.compare import Comparison, Difference, Row
from llm_analysis.inference.estimate import Estimate
from llm_analysis.report.tables import csv_of, seconds, table, wrapped
from llm_analysis.units import GB

_LETTERS = "ABCDEF"
_COLUMNS = 80  # width of a sentence
_LABELS = {
    "prefill_latency": "prefill (TTFT)",
    "decode_latency": "decode per token (TPOT)",
    "total_latency": "total",
    "prefill_tokens_per_sec": "prefill tokens/s",
    "decode_tokens_per_sec": "decode tokens/s",
    "total_tokens_per_sec": "generated tokens/s",
    "request_tokens_per_sec": "tokens/s of one request",
    "num_gpus": "GPUs",
    "weight_memory_per_gpu": "weights, GB per GPU",
    "kv_cache_memory_per_gpu": "KV cache, GB per GPU",
    "activation_memory_per_gpu": "activations, GB per GPU",
    "runtime_memory_per_gpu": "runtime, GB per GPU",
    "memory_left_per_gpu": "left, GB per GPU",
    "max_batch_size_per_gpu": "largest batch",
    "max_context_len": "longest context",
    "cost_per_million_tokens": "cost per million tokens",
}


def rendered(found: Comparison, style: str, width: int = _COLUMNS) -> str:
    """Return the comparison in one of `report.tables.FORMATS`; tables wider than `width` are cut into several."""
    if style == "json":
        return json.dumps(found.as_dict(), indent=2, allow_nan=False)
    letters = _LETTERS[: len(found.estimates)]
    if style == "csv":
        return csv_of([_plain(row, letters) for row in found.rows])
    rows = [[_LABELS[row.name], *(_cell(row.name, value) for value in row.values)] for row in found.rows]
    ratios = [[_LABELS[row.name], *map(_ratio, row.ratios[1:])] for row in found.rows]
    parts = [
        "\n".join(
            wrapped(f"{letter}: {_named(e)}", _COLUMNS) for letter, e in zip(letters, found.estimates, strict=True)
        )
    ]
    if len(letters) <= 3:
        both = [a + b[1:] for a, b in zip(rows, ratios, strict=True)]
        parts.append(table(both, ["", *letters, *(f"{letter}/A" for letter in letters[1:])], style))
    else:
        parts += _tables(rows, ["", *letters], style, width)
        differ = [cells for cells in ratios if set(cells[1:]) != {"1.00"}]
        parts += _tables(differ, ["", *(f"{letter}/A" for letter in letters[1:])], style, width)
    parts.append("\n".join(wrapped(_sentence(each, letters), _COLUMNS) for each in found.differences))
    notes = [(letter, note) for letter, e in zip(letters, found.estimates, strict=True) for note in e.notes]
    of: dict[str, str] = {}
    for letter, note in notes:
        of[note] = of.get(note, "") + letter
    return "\n\n".join(
        [*parts, *(wrapped(f"note on {', '.join(which)}: {note}", _COLUMNS) for note, which in of.items())]
    )


def _tables(rows: Sequence[Sequence[str]], heads: Sequence[str], style: str, width: int) -> list[str]:
    """Return one table, or the fewest that fit the width, each with the first column and some of the others."""
    others = range(1, len(heads))
    texts: list[str] = []
    for count in others:
        size = -(-len(others) // count)
        parts = [others[start : start + size] for start in range(0, len(others), size)]
        texts = [
            table([[row[0], *(row[i] for i in part)] for row in rows], [heads[0], *(heads[i] for i in part)], style)
            for part in parts
        ]
        if style == "markdown" or max(len(line) for text in texts for line in text.splitlines()) <= width:
            break
    return texts


def _named(e: Estimate) -> str:
    """Return model, formats, GPUs, layout and workload of an estimate."""
    sizes = [(name, getattr(e, f"{name}_size")) for name in ("tp", "cp", "pp", "dp", "ep")]
    layout = ", ".join(f"{name} {size}" for name, size in sizes if size > 1)
    work = f"batch {e.batch_size_per_gpu}, {e.seq_len} in, {e.num_tokens_to_generate} out"
    how = e.method if e.runtime is None else f"{e.method}, {e.runtime}"
    gpus = f"{e.num_gpus} x {e.gpu_name}" + (f" ({layout})" if layout else "")
    return f"{e.model_name} {e.dtype_name} on {gpus}; {work}; {how}{'' if e.fits else '; DOES NOT FIT'}"


def _cell(name: str, value: float | None) -> str:
    """Return one value with the unit that its row names."""
    if value is None:
        return "-"
    if name.endswith("_latency"):
        return seconds(value)
    if "memory" in name:
        return f"{value / GB:,.2f}"
    if name == "cost_per_million_tokens":
        return f"{value:,.2f}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _ratio(value: float | None) -> str:
    """Return a ratio in two decimals."""
    return "-" if value is None else f"{value:,.2f}"


def _plain(row: Row, letters: str) -> dict[str, object]:
    """Return a row of the CSV: SI values and ratios."""
    plain: dict[str, object] = {"quantity": row.name, **dict(zip(letters, row.values, strict=True))}
    for letter, ratio in zip(letters[1:], row.ratios[1:], strict=True):
        plain[f"{letter}/A"] = ratio
    return plain


def _sentence(found: Difference, letters: str) -> str:
    """Return one difference as a sentence: by how much a phase differs, and the operators that cause it."""
    pair = f"{letters[found.scenario]} against A"
    if not found.causes:
        return f"{pair}: {found.phase} takes the same time"
    more = "longer" if found.seconds > 0 else "shorter"
    bounds = {cause.bound for cause in found.causes}
    offset = any(cause.share > 1 for cause in found.causes)  # shares above 100 % would say little
    parts = [seconds(abs(cause.seconds)) if offset else f"{cause.share:.0%}" for cause in found.causes]
    named = [f"{cause.operator} {part}" for cause, part in zip(found.causes, parts, strict=True)]
    if len(bounds) == 1:
        everyone = f", {'all ' * (len(named) > 1)}{_bound(bounds.pop())}"
        causes = ", ".join(named) + everyone
    else:
        causes = ", ".join(f"{text} ({_bound(c.bound)})" for text, c in zip(named, found.causes, strict=True))
    rest = f"; operators that are {'shorter' if found.seconds > 0 else 'longer'} offset most of it" if offset else ""
    return f"{pair}: {found.phase} is {seconds(abs(found.seconds))} {more}: {causes}{rest}"


def _bound(term: str) -> str:
    """Return a limiting term as an adjective."""
    return f"{term}-bound"
