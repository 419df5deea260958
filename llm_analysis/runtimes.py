"""The runtimes that come with the program, fitted anew:

    python -m llm_analysis.runtimes measurements.csv && python -m llm_analysis.bands measurements.csv

Each is fitted to its static rows. The kipply-blog rows are this project's first benchmark: scored, never fitted. A fit
starts from nothing, from what the engines of POOL have in common, or from another version or port of the same engine
(fitted first), whichever does better on rows held out.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_analysis.fit_runtime import CUDA_CORES, TERMS, chosen_terms, fit, fold_key, folds, loss, out_of_sample
from llm_analysis.measurements import Measurement, apart, gpu_named, read_measurements
from llm_analysis.rows import Rows
from llm_analysis.runtime import FOLDER, Runtime, RuntimeEvidence, get_runtime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

OWN_BENCHMARK = "kipply-blog"

# Whose all-reduce an engine runs, how it launches narrow kernels: from their source and release notes. The FLOP per
# clock of an attention on CUDA cores are 16 elements of the cache, each multiplied and added (docs/accuracy.md).
FACTS: dict[str, dict[str, Any]] = {
    "vllm": {"collective": "engine", "narrow_launch": True},
    "tensorrt-llm": {"collective": "engine"},
    "tensorrt-llm-0.9": {"collective": "engine", "cuda_core_flops": 32.0, "tensor_core_groups": [8]},
    "tensorrt-llm-0.6": {"collective": "engine", "cuda_core_flops": 32.0},
    "vllm-v1": {"collective": "engine", "narrow_launch": True},
    "vllm-rocm": {"collective": "engine", "narrow_launch": True},
    "sglang": {"collective": "engine", "narrow_launch": True},
    "fastertransformer": {"collective": "nccl"},
    "gpt-fast": {"collective": "nccl"},
    "llama.cpp": {"collective": "nccl", "narrow_launch": True},
    "hf-transformers": {"collective": "nccl"},
}
# The terms that may be fitted. Most engines' kernels are those the profiles were measured on, or as good, so that only
# what they add is fitted; and they enqueue a pass as a whole (a CUDA graph, a TensorRT engine, a compiled step, a loop
# in C++), so that no host comes between two layers.
SHARED = ("step_seconds", "sequence_seconds", "collective_seconds")
ADDED = (*SHARED, "narrow_memory")
ALLOWED: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("vllm", "vllm-v1", "vllm-rocm", "sglang", "tensorrt-llm", "fastertransformer", "gpt-fast"), ADDED
)
# An engine in C++ without published rows here, and the one that lends it bands. It adds nothing to the kernels: a probe
# of bare kernels, not published, met it within 6 to 8 %, and nothing else is known of it.
LIKE = {"lmdeploy": "tensorrt-llm"}
# TensorRT-LLM's attention of that time: one block of CUDA cores for each query head; from 0.7 on also one on tensor
# cores (XQA), for groups of 8.
OLD_ATTENTION = ("tensorrt-llm-0.6", "tensorrt-llm-0.9")
ALLOWED |= dict.fromkeys(OLD_ATTENTION, (*ADDED, CUDA_CORES))
BY_MODEL = {"hf-transformers"}  # nearly all rows are of one source and GPU: its models are left out in turn
POOL = ("vllm", "tensorrt-llm")  # the engines whose common terms others start from
# Versions and ports of one engine: the one that they may start from, fitted first.
RELATIVES = {"vllm-v1": "vllm", "vllm-rocm": "vllm"} | dict.fromkeys(OLD_ATTENTION, "tensorrt-llm")


def usable(measurements: Iterable[Measurement], name: str) -> list[Measurement]:
    """The rows that a runtime is fitted to: static batches of one pipeline stage on its platform."""
    base = name.removesuffix("-rocm")
    amd, ported = name != base, f"{base}-rocm" in FACTS
    return [
        m
        for m in measurements
        if m.engine == base
        and m.kind == "static"
        and m.source != OWN_BENCHMARK
        and m.pp_size == 1
        and not apart(m)
        and (not ported or (gpu_named(m.gpu_name).vendor == "AMD") == amd)
    ]


def fitted(rows: Rows, name: str, prior: Runtime) -> Runtime:
    """The runtime of that name, its terms chosen, fitted, and fitted again without each source and GPU in turn."""
    facts = {"name": name, **FACTS.get(name, {})}
    allowed = ALLOWED.get(name, TERMS)
    tries = [(start, chosen_terms(rows, start, prior, allowed)) for start in starts(facts, prior)]
    start, terms = min(tries, key=lambda t: loss(rows, out_of_sample(rows, t[0], t[1], prior)))
    whole = fit(rows, start, terms, prior=prior)
    held_out = {
        fold_key(rows.measurements[fold[0]], rows.by_model): values(without(rows, start, terms, fold, prior), terms)
        for fold in folds(rows)
    }
    estimates = out_of_sample(rows, start, terms, prior)
    known = {"date": date.today().isoformat(), "evidence": evidence(rows, estimates)}
    return whole.model_copy(update=known | {"held_out": held_out if terms else {}})


def starts(facts: dict[str, Any], prior: Runtime) -> list[Runtime]:
    """Where a fit may start: from nothing, from the pool's terms, or from those of a relative.

    The engines of the pool start from nothing or from the others' rows, so that no row comes back to its own engine.
    """
    others = [prior, *([get_runtime(RELATIVES[facts["name"]])] if facts["name"] in RELATIVES else [])]
    fresh = {"held_out": {}, "bands": {}, "evidence": RuntimeEvidence()}
    mine = {"narrow_launch": False} | fresh | facts
    return [Runtime(**facts), *(start.model_copy(update=mine) for start in others)]


def without(rows: Rows, start: Runtime, terms: Sequence[str], fold: Any, prior: Runtime) -> Runtime:
    """The fit to all rows but those of a fold."""
    import numpy as np

    others = np.setdiff1d(np.arange(len(rows.measurements)), fold)
    return fit(rows, start, terms, others, prior) if len(others) else start


def values(runtime: Runtime, terms: Sequence[str]) -> dict[str, float]:
    """A runtime's terms, to four digits."""
    return {term: rounded(getattr(runtime, term)) for term in terms}


def rounded(value: float) -> float:
    """Four digits; what is no time at all as none."""
    return float(f"{value:.4g}") if abs(value) > 1e-9 else 0.0


def evidence(rows: Rows, estimates: Array) -> RuntimeEvidence:
    """How many rows, of which sources, and the errors on rows held out."""
    import numpy as np

    errors = estimates / rows.measured - 1
    return RuntimeEvidence(
        rows=len(errors),
        sources=dict(Counter(m.source for m in rows.measurements)),
        median_error=rounded(float(np.median(np.abs(errors)))),
        p90_error=rounded(float(np.quantile(np.abs(errors), 0.9))),
        bias=rounded(float(np.median(errors))),
    )


def write(runtime: Runtime, folder: Path) -> Path:
    """The runtime as a JSON file, terms that it does without left out."""
    path = folder / f"{runtime.name}.json"
    plain = runtime.model_dump(exclude_defaults=True)
    plain = {key: rounded(value) if isinstance(value, float) else value for key, value in plain.items()}
    plain = {key: value for key, value in plain.items() if value != 0.0}
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    return path


def fit_all(path: Path, folder: Path = FOLDER, names: Sequence[str] = tuple(FACTS)) -> None:
    """Fits and writes the runtimes `names`."""
    measurements, _ = read_measurements(path)
    own = {name: Rows(usable(measurements, name), name in BY_MODEL) for name in names}
    for name in names:
        others = [m for other in POOL if other != name for m in usable(measurements, other)]
        prior = fit(Rows(others), Runtime(name="pool", collective="engine"), SHARED)
        runtime = fitted(own[name], name, prior)
        write(runtime, folder)
        terms = {t: getattr(runtime, t) for t in TERMS if t in runtime.model_dump(exclude_defaults=True)}
        e = runtime.evidence
        for twin in (twin for twin, like in LIKE.items() if like == name):
            note = f"no published rows: the kernels alone, within the bands of {name}"
            write(Runtime(name=twin, date=runtime.date, evidence=RuntimeEvidence(note=note)), folder)
        print(f"{name}: {e.rows} rows, median {e.median_error}, p90 {e.p90_error}, bias {e.bias}; {terms}", flush=True)


if __name__ == "__main__":
    fit_all(Path(sys.argv[1]), names=sys.argv[2:] or tuple(FACTS))
