"""Build the runtimes of `data/runtimes` from a table of published latencies.

    python -m llm_analysis.calibration.fitting.build_runtimes measurements.csv [measurements.csv ...] [runtime ...]

Each runtime is fitted to all rows of its engine, static and serving. A fit starts from zero, from the terms fitted to
the engines in _POOL, or from another version or port of the same engine (fitted earlier), whichever has the lowest
error on held-out rows. The kipply-blog rows are the project's first benchmark and are scored but never fitted. Rows
that `measurements.apart` excludes (grade C, or contradicted by another number) and rows that the datasheet rules out
are not fitted either.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_analysis.calibration.fitting.runtime_fit import (
    CUDA_CORES,
    FACTORS,
    FP4,
    NOTHING,
    SM_BYTES,
    TERMS,
    chosen_terms,
    fit,
    fold_key,
    folds,
    loss,
    out_of_sample,
)
from llm_analysis.calibration.measurements import Measurement, apart, gpu_named, model_named, read_measurements
from llm_analysis.calibration.residuals import rounded
from llm_analysis.calibration.timing import Rows
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.inference.runtimes import FOLDER, UNKNOWN, Runtime, RuntimeEvidence, get_runtime, port_name
from llm_analysis.units import Array

OWN_BENCHMARK = "kipply-blog"
FIT_DATE = "2026-11-27"  # written to the files; a constant, so that the same data give the same files

# Facts about each engine, from source code and release notes: which all-reduce it runs, whether kernels with weights
# of 8 bits or fewer launch like 16-bit ones, and more (inference/runtimes.py has all fields). The 32 FLOP per clock and
# SM of attention on CUDA cores are 16 elements of the cache, each multiplied and added (docs/accuracy.md).
FACTS: dict[str, dict[str, Any]] = {
    "vllm": {"collective": "engine", "narrow_launch": True, "ports": {"AMD": "vllm-rocm", "CDNA2": "vllm-mi200"}},
    "vllm-0.2": {"collective": "nccl", "narrow_launch": True},
    "tensorrt-llm-0.20": {"collective": "engine"},
    "tensorrt-llm-0.9": {"collective": "engine", "cuda_core_flops": 32.0, "tensor_core_groups": [8]},
    "tensorrt-llm-0.6": {"collective": "engine", "cuda_core_flops": 32.0},
    # attention takes the scale of the next product (`out_scale` in tensorrt_llm/_torch/modules/attention.py; recalled)
    "tensorrt-llm": {"collective": "engine", "fused_quantize": True},
    "vllm-0.13": {
        "collective": "engine",
        "narrow_launch": True,
    },
    "vllm-v1": {
        "collective": "engine",
        "narrow_launch": True,
    },
    "vllm-rocm": {"collective": "engine", "narrow_launch": True},
    # its all-reduce kernel runs on the MI300 series only (`use_custom_allreduce` in vllm/platforms/rocm.py of 0.9.2)
    "vllm-mi200": {"collective": "nccl", "narrow_launch": True},
    "sglang": {"collective": "engine", "narrow_launch": True, "ports": {"AMD": "sglang-rocm"}},
    "sglang-rocm": {"collective": "engine", "narrow_launch": True},
    "fastertransformer": {"collective": "nccl"},
    "gpt-fast": {"collective": "engine"},  # its README sets ENABLE_INTRA_NODE_COMM=1
    # The sources ran llama-bench without flash attention. A score is written in fp16, converted to fp32 (read 2 bytes,
    # write 4), read and written by the softmax (4 + 4), converted to fp16 (4 + 2) and read by the second product (2):
    # 24 bytes, recalled, which take the time of 30 at 80 % of the bandwidth (assumed). `sm_bytes` is fitted from 8 on.
    "llama.cpp": {
        "collective": "nccl",
        "narrow_launch": True,
        "fp16_accumulate": True,
        "score_bytes": 30.0,
        "sm_bytes": 8.0,
    },
    "hf-transformers": {"collective": "nccl"},
    "hf-transformers-4.35": {"collective": "nccl"},
    # `dequantize` in csrc/transformer/inference, before the product in 16 bits; recalled
    "deepspeed-inference": {"collective": "nccl", "dequantizes": True},
    "exllama": {"collective": "nccl", "narrow_launch": True, "fp16_accumulate": True},
    "tinychat": {"collective": "nccl", "narrow_launch": True, "fp16_accumulate": True},
    "autoawq": {"collective": "nccl"},
    "mlc-llm": {"collective": "nccl", "narrow_launch": True},
    "optimum-habana": {"collective": "nccl"},
}
# The terms that may be fitted, by engine (all of TERMS for an engine that is not listed). Engines with _ADDED enqueue
# a pass as a whole (CUDA graph, TensorRT engine, compiled step, loop in C++): no host time per layer. Their kernels are
# those of the profiles or similar: only weights of 8 bits or fewer, decode attention and the memory traffic of products
# may be slower.
_SHARED = ("step_seconds", "sequence_seconds", "collective_seconds")
_ADDED = (*_SHARED, "narrow_memory", "decode_attention", "matmul_memory")
_ALLOWED: dict[str, tuple[str, ...]] = dict.fromkeys(
    (
        *("vllm", "vllm-0.2", "vllm-0.13", "vllm-v1", "vllm-rocm", "vllm-mi200"),
        *("sglang", "tensorrt-llm", "tensorrt-llm-0.20", "fastertransformer", "gpt-fast"),
    ),
    _ADDED,
)
_ALLOWED["llama.cpp"] = (*FACTORS, SM_BYTES)  # its loop is C++ too; its kernels differ from the measured ones
# All its rows are of prefill and decode together, so they cannot tell the two attentions apart. Decode takes longer.
_ALLOWED["optimum-habana"] = tuple(term for term in TERMS if term != "attention")
_ALLOWED["sglang-rocm"] = ()  # one source, 12 of its 14 rows on one GPU: held-out rows cannot check a term
_ALLOWED |= dict.fromkeys(("deepspeed-inference", "hf-transformers"), ())  # one source, one GPU
# Engines without rows in the tables get a runtime without terms, the kernels alone. LMDeploy runs in C++; estimates
# from the kernels alone agreed with an unpublished measurement of it within 6 to 8 %.
_WITHOUT_ROWS = ("lmdeploy",)
# Early TensorRT-LLM decodes attention on CUDA cores, with one thread block per query head. From 0.7 on it also has a
# kernel on tensor cores (XQA) for 8 query heads per KV head.
_OLD_ATTENTION = ("tensorrt-llm-0.6", "tensorrt-llm-0.9")
_ALLOWED |= dict.fromkeys(_OLD_ATTENTION, (*_ADDED, CUDA_CORES))

# Notes on the versions that a short name means, and on host time between the steps that the rows, of large models, do
# not determine.
_NOTES = {
    "vllm": "vLLM 0.3 to 0.7 (2024); vllm-0.13 is 0.8 to 0.13, vllm-v1 is 0.14 and later",
    "vllm-rocm": "its rows are of 70B models and larger, so its host time, which limits small ones, is uncertain",
    "hf-transformers": "no host time is known: its rows are of 7B models; smaller ones take longer than estimated",
    "vllm-0.2": "no host time per step is known: its rows are of 7B models and larger; smaller ones take longer",
}

# These engines share the factor on matrix products in nvfp4. It is fitted to their dense models; in others the experts
# take most of the time.
_FP4_ENGINES = ("tensorrt-llm-0.20", "vllm-0.13", "vllm-v1", "sglang", "tensorrt-llm")

# The GPU waits while these engines schedule the next step. The time is always fitted: rows of large models cannot tell
# it from the time per collective, but the estimates of small models depend on it.
_SYNCHRONOUS = ("vllm", "vllm-0.13", "vllm-rocm", "vllm-mi200")

# All rows have one source and GPU, so each model is a fold.
_BY_MODEL = {"hf-transformers-4.35", "optimum-habana", "vllm-mi200"}
# A fit to these engines is the prior and a start value of all others. An engine that calls NCCL shares its collectives
# with the vLLM of that kind.
_POOL = {"engine": ("vllm", "tensorrt-llm-0.20"), "nccl": ("vllm", "vllm-0.2", "tensorrt-llm-0.20")}
# Runtime -> another version or port of the same engine. A fit may start from its terms, so FACTS lists it first.
_RELATIVES = {
    "vllm-0.2": "vllm",
    "vllm-0.13": "vllm",
    "vllm-v1": "vllm-0.13",
    "vllm-rocm": "vllm",
    "vllm-mi200": "vllm",
    "sglang-rocm": "sglang",
    "tensorrt-llm": "tensorrt-llm-0.20",
}
_RELATIVES |= dict.fromkeys(_OLD_ATTENTION, "tensorrt-llm-0.20")
# These fits start from no terms: without a scheduler and with one sequence they are not like the servers of _POOL.
_ALONE = ("llama.cpp",)


def usable(measurements: Iterable[Measurement], name: str) -> list[Measurement]:
    """Return the rows that the runtime `name` is fitted to: those of its engine on its GPUs."""
    return [
        m for m in measurements if _used_on(m) == name and m.source != OWN_BENCHMARK and m.pp_size == 1 and not apart(m)
    ]


def _used_on(m: Measurement) -> str:
    """Return the name of the runtime of a row's engine on its GPU."""
    ports = FACTS.get(m.engine, NOTHING).get("ports", NOTHING)
    try:
        return (ports and port_name(ports, gpu_named(m.gpu_name))) or m.engine
    except LLMAnalysisError:  # an unknown GPU
        return m.engine


def _possible_rows(measurements: Sequence[Measurement], by_model: bool = False) -> Rows:
    """Return the measurements that can be estimated and that are possible at the datasheet's peaks."""
    rows = Rows(measurements, by_model)
    impossible = rows.impossible()
    return Rows([m for i, m in enumerate(rows.measurements) if i not in impossible], by_model) if impossible else rows


def fp4_factors(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Return the factor on matrix products in nvfp4 by the source that is left out; under "" that of all sources."""
    rows = [m for name in _FP4_ENGINES for m in usable(measurements, name) if _is_dense_on_fp4(m)]

    def fitted(without: str) -> float:
        others = _possible_rows([m for m in rows if m.source != without])
        shared = fit(others, Runtime(name="pool", collective="engine"), (*_SHARED, FP4), engines_alike=True)
        return rounded(shared.fp4_matmul)

    return {source: fitted(source) for source in ("", *sorted({m.source for m in rows}))}


def _is_dense_on_fp4(m: Measurement) -> bool:
    """Return whether a row's model has no experts and its GPU multiplies in fp4."""
    try:
        return not model_named(m.model_name).num_experts and "fp4" in gpu_named(m.gpu_name).peak_flops
    except LLMAnalysisError:
        return False


def _fitted(rows: Rows, name: str, prior: Runtime, fp4: Mapping[str, float] = NOTHING) -> Runtime:
    """Return the runtime `name` with chosen and fitted terms, and the terms fitted again without each fold.

    `fp4` are the factors of `fp4_factors`, for an engine that has them.
    """
    facts = {"name": name, **FACTS.get(name, {})} | ({FP4: fp4[""]} if fp4 else {})
    allowed, always = _ALLOWED.get(name, TERMS), ("step_seconds",) if name in _SYNCHRONOUS else ()
    by_key = {fold_key(rows.measurements[fold[0]], rows.by_model): fold for fold in folds(rows)}
    given = {key: {FP4: fp4.get(rows.measurements[fold[0]].source, fp4[""])} for key, fold in by_key.items() if fp4}
    tries = [(start, chosen_terms(rows, start, prior, allowed, given, always)) for start in _starts(facts, prior)]
    start, terms = min(tries, key=lambda t: loss(rows, out_of_sample(rows, t[0], t[1], prior, given)))
    whole = fit(rows, start, terms, prior=prior)
    held_out = {
        key: given.get(key, {})
        | _values(_without(rows, start.model_copy(update=given.get(key, {})), terms, fold, prior), terms)
        for key, fold in by_key.items()
    }
    estimates = out_of_sample(rows, start, terms, prior, given)
    evidence = _evidence(rows, estimates).model_copy(update={"note": _NOTES.get(name, "")})
    known = {"date": FIT_DATE, "evidence": evidence}
    return whole.model_copy(update=known | {"held_out": {key: values for key, values in held_out.items() if values}})


def _starts(facts: dict[str, Any], prior: Runtime) -> list[Runtime]:
    """Return the runtimes that a fit may start from: no terms, the terms of `prior`, those of the related runtime.

    `prior` is fitted without the rows of the engine itself, so a held-out row does not enter its own start value.
    """
    own = Runtime(**facts)
    if own.name in _ALONE:
        return [own]
    others = [prior, *([get_runtime(_RELATIVES[own.name])] if own.name in _RELATIVES else [])]
    mine = {name: getattr(own, name) for name in Runtime.model_fields if name not in TERMS}
    return [own, *(start.model_copy(update=mine) for start in others)]


def _without(rows: Rows, start: Runtime, terms: Sequence[str], fold: Any, prior: Runtime) -> Runtime:
    """Return the fit to all rows outside `fold`, or `start` if there are none."""
    import numpy as np

    others = np.setdiff1d(np.arange(len(rows.measurements)), fold)
    return fit(rows, start, terms, others, prior) if len(others) else start


def _values(runtime: Runtime, terms: Sequence[str]) -> dict[str, float]:
    """Return the values of a runtime's terms, rounded to four digits."""
    return {term: rounded(getattr(runtime, term)) for term in terms}


def _evidence(rows: Rows, estimates: Array) -> RuntimeEvidence:
    """Return the number of rows, their sources, and the errors of held-out estimates."""
    import numpy as np

    errors = estimates / rows.measured - 1
    return RuntimeEvidence(
        rows=len(errors),
        sources=dict(Counter(m.source for m in rows.measurements)),
        largest_batch=max(rows.decoding),
        median_error=rounded(float(np.median(np.abs(errors)))),
        p90_error=rounded(float(np.quantile(np.abs(errors), 0.9))),
        bias=rounded(float(np.median(errors))),
    )


def _write(runtime: Runtime, folder: Path) -> Path:
    """Write a runtime as a JSON file without terms of zero; return the path."""
    path = folder / f"{runtime.name}.json"
    plain = runtime.model_dump(exclude_defaults=True)
    plain = {key: rounded(value) if isinstance(value, float) else value for key, value in plain.items()}
    plain = {key: value for key, value in plain.items() if value != 0.0}
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    return path


def _fit_all(paths: Sequence[Path], names: Sequence[str] = tuple(FACTS), folder: Path = FOLDER) -> None:
    """Fit and write the runtimes `names`.

    If these are all runtimes, also write the runtime `unknown`, fitted to all engines, and those of _WITHOUT_ROWS.
    """
    measurements = [m for path in paths for m in read_measurements(path)[0]]
    fp4 = fp4_factors(measurements)
    print(f"{FP4}, by source left out: {fp4}", flush=True)
    for name in names:
        pool = _POOL[FACTS[name].get("collective", "nccl")]
        others = [m for other in pool if other != name for m in usable(measurements, other)]
        prior = fit(_possible_rows(others), Runtime(name="pool", collective="engine"), _SHARED)
        own = _possible_rows(usable(measurements, name), name in _BY_MODEL)
        runtime = _fitted(own, name, prior, fp4 if name in _FP4_ENGINES else NOTHING)
        _write(runtime, folder)
        e = runtime.evidence
        known = {t: getattr(runtime, t) for t in TERMS if t in runtime.model_dump(exclude_defaults=True)}
        print(f"{name}: {e.rows} rows, median {e.median_error}, p90 {e.p90_error}, bias {e.bias}; {known}", flush=True)
    if set(names) == set(FACTS):
        rows = _possible_rows([m for other in FACTS for m in usable(measurements, other)])
        start = Runtime(name=UNKNOWN, collective="engine", fp4_matmul=fp4[""])
        shared = fit(rows, start, _SHARED, engines_alike=True)
        note = f"the terms fitted to all {len({m.engine for m in rows.measurements})} engines together"
        _write(shared.model_copy(update={"date": FIT_DATE, "evidence": RuntimeEvidence(note=note)}), folder)
        for name in _WITHOUT_ROWS:
            note = "no published rows: the kernels alone"
            _write(Runtime(name=name, date=FIT_DATE, evidence=RuntimeEvidence(note=note)), folder)


if __name__ == "__main__":
    tables = [Path(argument) for argument in sys.argv[1:] if argument.endswith(".csv")]
    _fit_all(tables, [argument for argument in sys.argv[1:] if not argument.endswith(".csv")] or tuple(FACTS))
