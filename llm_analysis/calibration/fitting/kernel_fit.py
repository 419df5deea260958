"""Fit the efficiency of one kind of kernel by least squares on log time with a robust loss.

`hardware.roofline.cost` predicts each row, as it does in estimates. For the held-out errors, the shapes are split into
two halves, and each half is predicted with numbers fitted to the other half. The numbers of the profile are then fitted
to all rows. Needs scipy.
"""

from __future__ import annotations

import numpy as np

from llm_analysis.calibration.fitting.measured_kernels import Samples
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import Evidence, Kernel
from llm_analysis.hardware.roofline import Efficiency, cost
from llm_analysis.units import Array

_SOURCES = {
    "": "aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0), {}",
    "vidur, mlp.csv": "microsoft/vidur (MIT), profiled kernels of vLLM, {}",
    "vidur, network": "microsoft/vidur (MIT), NCCL launched by the host on DGX servers: {}",
}
Numbers = dict[str, float]
ALONG = "along_"  # prefix of the numbers of the kernels in Samples.along

# Start value, lower and upper bound of each number. Fractions are at most 1, the datasheet's peak.
_GUESS = {"launch": 5e-6, "flops": 0.6, "memory": 0.7, "sharpness": 2.0, "fill": 1e4, "latency": 5e-7, "link": 0.6}
_LOWEST = {"launch": 1e-7, "flops": 0.005, "memory": 0.02, "sharpness": 1.0, "fill": 1.0, "latency": 1e-9, "link": 0.01}
_HIGHEST = {"launch": 1e-3, "flops": 1.0, "memory": 1.0, "sharpness": 10.0, "fill": 1e9, "latency": 1e-3, "link": 1.0}
CHUNKED = {"sharpness": 0.4}  # below 1 for collectives, because each chunk of a message adds latency

# Efficiency of the elementwise kernels in the measured MoE block; the fits of all GPUs are close to these numbers.
_ELEMENTWISE = {"launch": 2.9e-6, "memory": 0.46}
KNOWN = {"elementwise": Efficiency(**_ELEMENTWISE)}

# On the A100, experts were measured only with power-law routing, which overloads one expert. With even routing a
# grouped GEMM is as efficient as other GEMMs (as on the H100), so these three numbers are set by hand, not fitted;
# docs/accuracy.md lists this choice. The bandwidth of the kernels around them is that of other elementwise kernels.
_UNEVEN = {"flops": 0.8, "sharpness": 1.5, "fill": 1.0, ALONG + "memory": _ELEMENTWISE["memory"]}
FIXED = {("a100-sxm-80gb", "grouped_gemm"): _UNEVEN}
# The launches of the kernels around a grouped GEMM cannot be told apart from its own. Tokens were dealt out evenly in
# the measurements, so that all experts turn from memory to compute at once; in a model popular ones turn first. So the
# sharpness is at most that of 16-bit GEMMs.
GROUPED = {ALONG + "launch": _ELEMENTWISE["launch"], "sharpness": 3.0}
# The fitted rows of A100 decode attention are bound by memory and do not determine the compute fraction. Other rows of
# the same table give a lower bound: attention with up to 16 query heads per KV head takes no longer than multi-head
# attention over the same cache.
LEAST_COMPUTE = {("a100-sxm-80gb", "decode_attention"): {"flops": 0.3}}

COMPUTE = ("launch", "flops", "memory", "sharpness", "fill")
MOVE = ("launch", "memory")
NETWORK = ("launch", "latency", "link", "sharpness")
_ROBUST = 0.05  # residual of log time above which the loss grows less than quadratically


def predicted(s: Samples, gpu: GPU, numbers: Numbers) -> Array:
    """Return the predicted seconds of all rows, over all kernels in the measured time."""
    runs = [(op, efficiency(numbers)) for op in (s.op, s.twin) if op is not None]
    runs += [(op, efficiency(numbers, ALONG)) for op in s.along]
    runs += [(op, KNOWN[op.kind]) for op in s.known]
    return np.asarray(sum(cost(op, gpu, e).seconds for op, e in runs), dtype=np.float64)


def efficiency(numbers: Numbers, prefix: str = "") -> Efficiency:
    """Return the numbers with names that start with `prefix`; without one, all but those of the kernels in `along`."""
    own = {n[len(prefix) :]: v for n, v in numbers.items() if n.startswith(prefix) and (prefix or ALONG not in n)}
    return Efficiency(**own)


def fitted(parts: list[Samples], gpu: GPU, names: tuple[str, ...], fixed: Numbers, lowest: Numbers) -> Numbers:
    """Return the numbers `names` fitted to the samples, together with `fixed`; numbers in neither have their defaults.

    `lowest` replaces the lower bounds of some numbers.
    """
    from scipy.optimize import least_squares

    low, high, guess = ({n: d[n.removeprefix(ALONG)] for n in names} for d in (_LOWEST, _HIGHEST, _GUESS))
    low |= {n: v for n, v in lowest.items() if n in names}
    target = [np.log(s.seconds) for s in parts]

    def numbers(x: Array) -> Numbers:
        return fixed | {n: float(min(max(np.exp(v), low[n]), high[n])) for n, v in zip(names, x, strict=True)}

    def residuals(x: Array) -> Array:
        return np.concatenate([np.log(predicted(s, gpu, numbers(x))) - t for s, t in zip(parts, target, strict=True)])

    bounds = [np.log([limit[n] for n in names]) for limit in (low, high)]
    start = np.clip(np.log([guess[n] for n in names]), bounds[0] + 1e-6, bounds[1] - 1e-6)
    solution = least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=_ROBUST)
    return {name: float(f"{value:.4g}") for name, value in numbers(solution.x).items()}


def held_out(parts: list[Samples], gpu: GPU, names: tuple[str, ...], fixed: Numbers, lowest: Numbers) -> Array:
    """Return the relative errors of all rows, each predicted with numbers fitted to the other half of the shapes."""
    errors = []
    for fold in (0, 1):
        numbers = fitted([s.part(s.shape % 2 != fold) for s in parts], gpu, names, fixed, lowest)
        rest = [s.part(s.shape % 2 == fold) for s in parts]
        errors += [predicted(s, gpu, numbers) / s.seconds - 1 for s in rest]
    return np.concatenate(errors)


def kernels_of(
    parts: list[Samples], gpu: GPU, names: tuple[str, ...], fixed: Numbers | None = None, lowest: Numbers | None = None
) -> tuple[Kernel, Efficiency | None]:
    """Return the kernel fitted to all rows with its held-out errors, and the numbers of those in `along` or None."""
    if parts[0].along:
        names = tuple(n for n in (*names, *(ALONG + n for n in MOVE)) if n not in (fixed or {}))
    errors = held_out(parts, gpu, names, fixed or {}, lowest or {})
    numbers = fitted(parts, gpu, names, fixed or {}, lowest or {})
    evidence = Evidence(
        rows=len(errors),
        median_error=round(float(np.median(abs(errors))), 4),
        p90_error=round(float(np.quantile(abs(errors), 0.9)), 4),
        bias=round(float(np.median(errors)), 4),
        source=_SOURCES.get(parts[0].source, _SOURCES[""]).format(parts[0].source),
        note=parts[0].note,
    )
    along = efficiency(numbers, ALONG) if parts[0].along else None
    return Kernel(numbers=efficiency(numbers), evidence=evidence), along
