"""Build the runtimes of `data/runtimes` from a table of published latencies, then their error bands.

    python -m llm_analysis.calibration.fitting.build_runtimes measurements.csv

Each runtime is fitted to its static rows. The kipply-blog rows are the project's first benchmark: scored, never fitted.
A fit starts from zero, from the terms that the engines of POOL share, or from another version or port of the same
engine (fitted first), whichever has the lower error on held-out rows.

A band is taken from the rows as `validate` scores them: each estimated by a runtime fitted without the rows of the same
source and GPU; pipelines and serving rows, to which nothing was fitted, as they are. Bands are kept apart for GPUs with
measured kernels, other NVIDIA GPUs, and each other vendor. Rows weigh as in the fit: those of a long table weigh less.
Excluded rows and the first benchmark are in no band.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from llm_analysis.calibration.fitting.runtime_fit import (
    CUDA_CORES,
    TERMS,
    Rows,
    chosen_terms,
    fit,
    fold_key,
    folds,
    loss,
    out_of_sample,
)
from llm_analysis.calibration.measurements import Measurement, apart, gpu_named, read_measurements
from llm_analysis.calibration.validation import bands_of, phase_of, rounded, runtime_named, score
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.inference.runtimes import FOLDER, Band, Runtime, RuntimeEvidence, build_for, get_runtime, place
from llm_analysis.units import Array

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


def fit_bands(path: Path, folder: Path = FOLDER) -> dict[str, dict[str, Band]]:
    """Writes the bands of all runtimes that the rows of a table tell, by phase; gives them back."""
    ratios: dict[str, dict[str, list[tuple[Measurement, float]]]] = {}
    for m, scored in score(path).rows:
        if m.source != OWN_BENCHMARK:
            of_build = ratios.setdefault(build_of(m), {})
            gpu = gpu_named(m.gpu_name)
            phase = phase_of(m) + place(gpu, same_chip(gpu))
            of_build.setdefault(phase, []).append((m, m.seconds / scored.estimated_seconds))
    found = {name: bands_of(by_phase) for name, by_phase in ratios.items()}
    found |= {twin: found[like] for twin, like in LIKE.items() if like in found}
    for name, bands in found.items():
        write_bands(folder / f"{name}.json", bands)
    return found


def build_of(m: Measurement) -> str:
    """The name of the runtime's build that a row ran."""
    return build_for(runtime_named(m.engine), gpu_named(m.gpu_name)).name


def write_bands(path: Path, bands: dict[str, Band]) -> None:
    """The same runtime file with other bands, which come last."""
    if not path.is_file():
        return
    plain = json.loads(path.read_text(encoding="utf-8"))
    plain.pop("bands", None)
    plain["bands"] = {phase: found.model_dump() for phase, found in bands.items()}
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    fit_all(Path(sys.argv[1]), names=sys.argv[2:] or tuple(FACTS))
    for runtime_name, runtime_bands in fit_bands(Path(sys.argv[1])).items():
        told = ", ".join(f"{phase} {b.low:g} to {b.high:g} ({b.rows})" for phase, b in runtime_bands.items())
        print(f"{runtime_name}: {told}")
