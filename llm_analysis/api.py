"""The Python API: `estimate`, `sweep` and `plan` from names and keywords, which are the flags of the command line."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from llm_analysis.errors import BadValue, nearest
from llm_analysis.explore.plan import Plan
from llm_analysis.explore.plan_flags import DEFAULTS, planned
from llm_analysis.explore.sweep import Selection, Sweep
from llm_analysis.explore.table import Table
from llm_analysis.explore.where import ALIASES
from llm_analysis.inference.analysis import estimate as estimated
from llm_analysis.inference.estimate import KEYS, Estimate
from llm_analysis.inference.question import question
from llm_analysis.inference.workload import Workload
from llm_analysis.names import ALIASES as FLAG_ALIASES
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.report.estimate import rendered as estimate_text
from llm_analysis.report.plan import as_html as plan_html
from llm_analysis.report.plan import rendered as plan_text
from llm_analysis.report.sweep import as_html, rendered, summary, wanted_columns
from llm_analysis.units import NUMBER

if TYPE_CHECKING:
    from os import PathLike

_ROWS = 20  # rows in the repr of a table
_CHOICES = (
    "dtype_name",
    "allow_download",
    "method",
    "runtime",
    "draft_model_name",
    "kv_cache_dtype_bytes",
    "layernorm_dtype_bytes",
    "flops_efficiency",
    "hbm_memory_efficiency",
    "achieved_tflops",
    "achieved_memory_bandwidth_GBs",
    "intra_node_memory_efficiency",
    "inter_node_memory_efficiency",
    "cost_per_gpu_hour",
)
_HIDDEN = ("gpus_per_node",)  # fields of an estimate that are not flags of infer


class Answer(Estimate):
    """An `Estimate` that prints as the tables of infer."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        """Raise AttributeError with the field of an alias such as `ttft`, or with the nearest names."""
        field = ALIASES.get(name)
        hint = f"; it is called {field}" if field else nearest(name, KEYS)
        raise AttributeError(f"an estimate has no {name}{hint}")

    def __repr__(self) -> str:
        """Return the tables of infer; a short text if the quantities are arrays."""
        if not isinstance(self.decode_latency, NUMBER):
            return f"<estimates of {self.model_name} on {self.gpu_name}, arrays of shape {self.decode_latency.shape}>"
        return estimate_text(self, "table")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


class Rows(Table):
    """The rows of a sweep: a Mapping from JSON keys to numpy arrays, which prints as a table."""

    def __repr__(self) -> str:
        """Return the first rows of the columns that vary, and of results."""
        first = self.head(_ROWS)
        return f"{rendered(first, 'table', self._shown())}\n\n{summary(first)}" if self.num_rows else summary(self)

    def _repr_html_(self) -> str:
        return as_html(self, self._shown())

    def _shown(self) -> list[str]:
        """Return the columns to show."""
        columns = {name: self[name] for name in ("model_name", "gpu_name", *_flags()) if name in self}
        varying = [name for name, values in columns.items() if ((values != values[:1]) & (values == values)).any()]
        return wanted_columns(varying, self)


class Plans(Plan):
    """A `Plan` that prints as the answer of the command."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the answer of the command plan."""
        return plan_text(self, "table")

    def _repr_html_(self) -> str:
        return plan_html(self)


def estimate(model: str, gpu: str, **flags: Any) -> Answer:
    """Return prefill and decode latency, throughput, memory and cost of one scenario.

    `model` and `gpu` are names of the catalogue or JSON files; keywords are the flags of `llm-analysis infer`. Numpy
    arrays for batch_size_per_gpu, seq_len and num_tokens_to_generate broadcast. Raises LLMAnalysisError.

    >>> from llm_analysis import estimate
    >>> answer = estimate("llama-3.1-70b", "h200-sxm-141gb", dtype_name="fp8", tp_size=4, batch_size_per_gpu=28)
    >>> answer.fits, answer.num_gpus
    (True, 4)
    >>> 0.005 < answer.decode_latency < 0.02
    True
    """
    asked = _checked(flags, _flags()) | {"model_name": model, "gpu_name": gpu}
    for name, value in asked.items():
        if isinstance(value, (list, tuple, range)):
            raise BadValue(f"estimate takes one value of {name}, or a numpy array of lengths; sweep takes lists")
    return Answer(*estimated(*question(asked), asked.get("cost_per_gpu_hour")))


def sweep(
    model: str | Sequence[str],
    gpu: str | Sequence[str],
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    **flags: Any,
) -> Rows:
    """Return the estimates of all combinations of values as a Mapping of numpy arrays.

    Each keyword is a flag of `llm-analysis infer` with one value, a sequence, or a text with lists and ranges such as
    "1:256". `where` keeps rows, `columns` keeps columns. Raises LLMAnalysisError.

    >>> from llm_analysis import sweep
    >>> rows = sweep("llama-3.1-8b", ["h100-sxm-80gb", "l40s-48gb"], batch_size_per_gpu="1:64", seq_len=1000)
    >>> rows.num_rows, sorted(set(rows["gpu_name"].tolist()))
    (14, ['h100-sxm-80gb', 'l40s-48gb'])
    >>> fast = rows.where("tpot<20ms and fits=1").sort("total_tokens_per_sec", descending=True)
    >>> fast["gpu_name"][0].item()
    'h100-sxm-80gb'
    """
    asked = _checked(flags, _flags()) | {"model_name": model, "gpu_name": gpu}
    found = Sweep(_defaults() | asked).table(Selection.of(columns, where))
    return Rows(dict(found), found.points, found.misfits, found.notes)


def plan(
    model: str,
    gpu: str | Sequence[str] = "all",
    *,
    prices: Mapping[str, float] | str | PathLike[str] | None = None,
    progress: Callable[[int], Callable[[int], None]] | None = None,
    **flags: Any,
) -> Plans:
    """Return the cheapest way to serve a model: GPUs, format, layout, batch and replicas.

    Keywords are the flags of `llm-analysis plan`; limits on latency are texts such as "20ms". `prices` maps GPU names
    to the cost of an hour, or names a CSV file. Raises LLMAnalysisError.

    >>> from llm_analysis import plan
    >>> found = plan("llama-3.1-8b", "h100-sxm-80gb", seq_len=1000, num_tokens_to_generate=100, request_rate=10,
    ...              max_ttft="500ms", max_tpot="20ms")
    >>> found.best.num_gpus, found.best.tpot < 0.02
    (1, True)
    >>> found.commands["vllm"][0].split()[:2]
    ['vllm', 'serve']
    """
    known = [name for name in DEFAULTS if name not in ("model_name", "gpu_name", "prices")]
    asked = _checked(flags, known) | {"model_name": model, "gpu_name": gpu, "prices": prices}
    return Plans(*planned(asked, progress))


def _flags() -> list[str]:
    """Return the flags of infer that describe a question, except model_name and gpu_name."""
    return [*_CHOICES, *Workload.model_fields, *(name for name in Parallelism.model_fields if name not in _HIDDEN)]


def _defaults() -> dict[str, Any]:
    """Return the flags with their defaults."""
    fields = Workload.model_fields | Parallelism.model_fields
    own = {name: fields[name].default if name in fields else None for name in _flags()}
    return own | {"allow_download": False, "gpu_memory_utilization": None}


def _checked(flags: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the flags. Raises BadValue for an unknown one, with the nearest known names."""
    for name in flags:
        if name not in known:
            same = FLAG_ALIASES.get(name, name)
            raise BadValue(f"unknown keyword {name}{nearest(same if same in known else name, known)}")
    return dict(flags)
