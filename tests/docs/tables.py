"""The generated tables of the pages: one function for each, which returns Markdown lines."""

from collections.abc import Callable, Iterable, Sequence

from llm_analysis import Estimate, LLMAnalysis, Parallelism, Runtime, get_dtypes, get_gpu, get_model, get_runtime
from llm_analysis.calibration.fitting.runtime_fit import FACTORS, FP4
from llm_analysis.calibration.load_scores import GOODPUT
from llm_analysis.catalog import names
from llm_analysis.files import read_json
from llm_analysis.inference.bands import LEAST_ROWS, cells
from llm_analysis.inference.engines import engine_for, engine_of
from llm_analysis.inference.host_terms import FILE as HOST_TERMS
from llm_analysis.inference.runtimes import runtime_names
from llm_analysis.models.reading.families.table import FAMILIES, SAME_AS
from llm_analysis.names import ALIASES
from llm_analysis.serving.server_bands import FILE as BANDS

# GPUs: prefill, a tenth of the decode, and total in ms, as examples/fastertransformer/README.md cites them.
MEASURED = {1: (63.17, 22.0, 283.6), 2: (45.45, 13.5, 180.86)}
PASSES = 9  # decode passes of FasterTransformer for the ten tokens


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def benchmark_estimate(gpus: int, method: str) -> Estimate:
    """Return the published 13B benchmark, estimated by a method."""
    flops, memory = (0.7, 0.9) if method == "published" else (None, None)
    analysis = LLMAnalysis(
        get_model("test-13b"),
        get_gpu("a100-sxm-40gb"),
        get_dtypes("fp16"),
        Parallelism(tp_size=gpus),
        method=method,
        flops_efficiency=flops,
        hbm_memory_efficiency=memory,
        runtime=get_runtime("fastertransformer") if method == "calibrated" else None,
    )
    return analysis.inference(batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=10)


def benchmark() -> str:
    """Return the measured and estimated latencies of the published 13B benchmark.

    The measured decode per token is a tenth of the decode time, as the publication divides it, for `published`, which
    counts ten passes; for the others it is the time of one of the nine passes that FasterTransformer ran.
    """
    header = ("13B fp16, ms", "measured", "`calibrated`", "`published`, 0.7 and 0.9", "`ideal`")
    rows = []
    for gpus, (prefill, tenth, total) in MEASURED.items():
        estimates = {method: benchmark_estimate(gpus, method) for method in ("calibrated", "published", "ideal")}
        one_pass = (total - prefill) / PASSES
        for phase, measured, of_nine, shown in (
            ("prefill", prefill, prefill, str(prefill)),
            ("decode", tenth, one_pass, f"{tenth} of ten, {one_pass:.2f} of nine"),
            ("total", total, total, str(total)),
        ):
            cells = [
                compared(1e3 * getattr(e, f"{phase}_latency"), measured if method == "published" else of_nine)
                for method, e in estimates.items()
            ]
            rows.append([f"{gpus} A100, {phase}{' per token' if phase == 'decode' else ''}", shown, *cells])
    return table(header, rows)


def compared(value: float, measured: float) -> str:
    """Return an estimate with its difference from a measurement."""
    return f"{value:.2f} ({100 * (value / measured - 1):+.1f} %)"


def runtimes() -> str:
    """Return the terms of each runtime, and its errors on rows left out of the fit."""
    header = (
        *("runtime", "rows", "per step, ms", "per layer, us", "per sequence, us", "per collective, us"),
        *("factors", "median, p90"),
    )
    return table(header, (runtime_row(get_runtime(name)) for name in runtime_names() if name != "none"))


def runtime_row(r: Runtime) -> list[str]:
    """Return the cells of one runtime."""
    seconds = [(r.step_seconds, 1e3), *((value, 1e6) for value in (r.layer_seconds, r.sequence_seconds))]
    seconds.append((r.collective_seconds, 1e6))
    added = [f"{value * unit:.3g}" if value else "" for value, unit in seconds]
    factors = ", ".join(f"`{name}` {getattr(r, name):.2f}" for name in (*FACTORS, FP4) if getattr(r, name) != 1.0)
    e = r.evidence
    errors = e.note if e.median_error is None or e.p90_error is None else f"{e.median_error:.1%}, {e.p90_error:.1%}"
    return [f"`{r.name}`", str(e.rows), *added, factors, errors]


def architectures() -> str:
    """Return the model types that are read, and the catalogue's models of each."""
    models: dict[str, list[str]] = {}
    for name in names("model_configs"):
        kind = get_model(name).model_type.removesuffix("_text")
        models.setdefault(SAME_AS.get(kind, kind), []).append(name)
    rows = []
    for kind in sorted(FAMILIES):
        aliases = [f"`{alias}`" for alias, target in SAME_AS.items() if target == kind]
        examples = [f"`{name}`" for name in models.get(kind, [])]
        more = f" and {len(examples) - 3} more" if len(examples) > 3 else ""
        rows.append([f"`{kind}`", ", ".join(aliases), ", ".join(examples[:3]) + more])
    return table(("`model_type`", "read the same way", "in the catalogue"), rows)


def aliases() -> str:
    """Return the flag names of other programs that are accepted, by the flag that they stand for."""
    others: dict[str, list[str]] = {}
    for alias, name in ALIASES.items():
        others.setdefault(name, []).append(f"`--{alias}`")
    return table(("flag", "also accepted"), ([f"`--{name}`", ", ".join(names)] for name, names in others.items()))


def bands() -> str:
    """Return the error bands by cell, with the measurements behind them."""
    rows = [
        [
            *(name, f"{100 * (b.low - 1):+.0f} to {100 * (b.high - 1):+.0f} %", f"{b.high / b.low:.2f}"),
            *(str(b.rows), str(b.groups), str(len(b.gpus)), f"{b.batch[0]:g} to {b.batch[1]:g}"),
        ]
        for name, b in ((name.replace(" | ", ", "), band) for name, band in cells().items())
    ]
    header = ("cell", "measured against estimated", "width", "rows", "sources, GPUs and models", "GPUs", "batch")
    return table(header, rows)


def server_defaults() -> str:
    """Return the defaults of the servers of engines, by version and GPU memory."""
    rows = []
    for runtime in runtime_names():
        engine = engine_of(runtime)
        for since in engine.defaults if engine else []:
            for entry in since.by_gpu:
                at_least = f"from {entry.least_memory_bytes / 2**30:.0f} GiB" if entry.least_memory_bytes else "others"
                except_for = f", not {', '.join(entry.except_for)}" if entry.except_for else ""
                cache = "16 bits" if engine and engine.kv_cache == "activations" else "as the checkpoint"
                tokens = f"{entry.max_num_batched_tokens:,}" if entry.max_num_batched_tokens else "longest context"
                reserved = f"all but {entry.reserved_bytes / 1e9:.1f} GB"
                fraction = reserved if entry.reserved_bytes else f"{entry.gpu_memory_utilization:g}"
                fraction += f" of {engine.fraction_of.replace('_', ' ')}" if engine else ""
                known = (f"`{runtime}`", since.version, at_least + except_for)
                rows.append([*known, tokens, f"{entry.max_num_seqs:,}", fraction, cache])
    header = ("runtime", "read in version", "GPUs", "prefill chunk", "sequences", "memory fraction", "KV cache")
    return table(header, rows)


def load_errors() -> str:
    """Return the errors of simulated serving by metric, for arrivals at a rate or in a closed loop and all at once."""
    errors = read_json(BANDS)["errors"]

    def cell(name: str) -> str:
        found = errors.get(name)
        return f"{found['median']:.0%} / {found['p90']:.0%}" if found and found["values"] >= LEAST_ROWS else ""

    names = [name for name in errors if not name.endswith(_AT_ONCE) and not name.startswith(GOODPUT)]
    rows = ([name, cell(name), cell(name + _AT_ONCE)] for name in names)
    return table(("metric", "Poisson and closed loop", "all at once"), rows)


def goodput_errors() -> str:
    """Return the errors of the goodput under MLPerf's limits, by model."""
    errors = {name: found for name, found in read_json(BANDS)["errors"].items() if name.startswith(GOODPUT)}
    rows = (
        [name.removeprefix(f"{GOODPUT}, "), str(found["values"]), f"{found['median']:.0%} / {found['p90']:.0%}"]
        for name, found in errors.items()
    )
    return table(("model", "runs", "error, median / p90"), rows)


def server_host_terms() -> str:
    """Return the host terms of servers, by engine; those of overlapped work only for engines that overlap it."""
    terms = read_json(HOST_TERMS)["terms"]
    rows = []
    for name, found in terms.items():
        overlapped = engine_for(name).host_overlapped
        shown = {
            term: f"{found[term] * unit:.3g}" if overlapped or not term.startswith("beside") else ""
            for term, (unit, _) in _HOST_TERMS.items()
        }
        rows.append([f"`{name}`", *shown.values()])
    return table(("engine", *(f"{title}" for _, title in _HOST_TERMS.values())), rows)


_AT_ONCE = ", all at once"
_HOST_TERMS = {
    "beside_seconds": (1e3, "overlapped, ms per step"),
    "beside_sequence_seconds": (1e6, "us per sequence"),
    "stream_seconds": (1e6, "stream, us per token"),
    "launch_seconds": (1e6, "launch, us per kernel"),
    "front_seconds": (1e3, "front end, ms per request"),
    "chat_seconds": (1e3, "chat endpoint, ms"),
    "front_serial_seconds": (1e3, "serial, ms"),
}

TABLES: dict[str, Callable[[], str]] = {
    "benchmark": benchmark,
    "runtimes": runtimes,
    "bands": bands,
    "server-defaults": server_defaults,
    "load-errors": load_errors,
    "goodput-errors": goodput_errors,
    "host-terms": server_host_terms,
    "architectures": architectures,
    "aliases": aliases,
}
