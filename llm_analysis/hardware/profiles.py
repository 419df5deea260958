"""Kernel profiles: fitted efficiencies of the kernels of a GPU, with the measurements that they were fitted to.

A profile is one JSON file in `data/kernels/`, for one GPU or for an architecture (without `gpu_name`). Few GPUs were
measured, so a GPU takes each kernel from the first profile that has it:

    profile_for(gpu)             the GPU's own profile, then those of its architecture in _FALLBACKS
    kernel(profile, kind, fmt)   the format, then the format without its suffix (bf16 for bf16_kv8), then a similar
                                 format, then bf16

An estimate notes each fallback. `data/links.json` has the efficiencies of collectives by link: NVLink generations,
PCIe, xGMI and the network between servers, each for NCCL and, if measured, for the all-reduce of engines.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple

from llm_analysis.errors import Unsupported
from llm_analysis.files import DATA, read_json
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Efficiency

FOLDER = DATA / "kernels"
LINKS_FILE = DATA / "links.json"

# Profiles to use for an architecture, nearest first: the same generation, then the memory type, then age.
_A100, _H100, _B200 = "a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm"
_FALLBACKS = {
    "Volta": ("volta", _A100),
    "Turing": ("turing", "volta", _A100),
    "Ampere": (_A100, _H100),
    "Ada": ("l40s-48gb", _A100),
    "Hopper": (_H100, _A100),
    "Blackwell": (_B200, _H100),
    "Rubin": (_B200, _H100),
    "CDNA2": ("cdna2", _A100, _H100),
    "CDNA": ("cdna", _A100, _H100),
    "": (_A100,),
}

# Formats to use instead of one that was not measured, most similar first.
_SIMILAR_FORMATS = {
    "fp16": ("bf16",),
    "fp32": ("tf32", "bf16"),
    "tf32": ("bf16",),
    "fp8_block": ("fp8",),
    "int8": ("fp8",),
    "fp8": ("int8",),
    "mxfp4": ("nvfp4", "fp8"),
    "nvfp4": ("fp8",),
    "w4a8": ("w4a16",),
    "w5a16": ("w4a16",),
    "w6a16": ("w8a16", "w4a16"),
    "w2a8": ("int8", "fp8"),
    "mxfp8": ("fp8",),
    "w8a8": ("int8", "fp8"),
}

# The kind of kernel to use instead of one that was not measured; elementwise for all others.
_SIMILAR_KINDS = {
    "prefill_scan": "prefill_attention",
    "decode_scan": "decode_attention",
    "prefill_mla_attention": "prefill_attention",
    "decode_mla_attention": "decode_attention",
    "grouped_gemm": "gemm",
}


_MATMULS = ("gemm", "grouped_gemm")
_ELEMENTWISE = ("elementwise", "residual", "rotary", "embedding", "expert_rows", "quantize")
_MOST_MEMORY = 0.86  # fraction of the bandwidth that an elementwise kernel without work in the SMs would reach
_MOST_BUSY = 0.9  # fraction of its peak that an H20 reaches (DeepGEMM, fp8; see data/kernels/h20-96gb.json)


class Evidence(NamedTuple):
    """The measurements of a fit: number of rows, and errors on rows held out, as fractions of the measured time."""

    rows: int = 0
    median_error: float | None = None
    p90_error: float | None = None
    bias: float | None = None
    source: str = ""
    note: str = ""


class Kernel(NamedTuple):
    """The efficiency of one kind of kernel in one format. `profile_for` sets `profile`, the profile it comes from."""

    numbers: Efficiency
    evidence: Evidence
    profile: str = ""


class Profile(NamedTuple):
    """Kernels by kind and format. `num_sms`, `flops_per_clock` and `bytes_per_clock` belong to the measured chip.

    In one clock all its SMs together do `flops_per_clock` FLOP in 16 bits; its memory moves `bytes_per_clock` bytes.
    """

    name: str
    architecture: str
    gpu_name: str | None
    num_sms: int
    date: str
    note: str
    flops_per_clock: float
    bytes_per_clock: float
    kernels: dict[str, dict[str, Kernel]]


class Links(NamedTuple):
    """Collectives by link, algorithm and kind; a kind that ends in `/n` is for groups of up to n GPUs."""

    name: str
    date: str
    links: dict[str, dict[str, dict[str, Kernel]]]


class Found(NamedTuple):
    """An efficiency with its evidence, and a note on each fallback."""

    numbers: Efficiency
    evidence: Evidence
    notes: tuple[str, ...] = ()


class Basis(NamedTuple):
    """The measurements behind the estimates of one kind of kernel, or of a collective."""

    kind: str
    format: str  # number format; for a collective nccl, or engine for the all-reduce of inference engines
    profile: str  # profile of the kernel; for a collective the link
    measured: bool  # whether it was measured on this GPU; for a collective, over this kind of link
    evidence: Evidence


def profiles() -> dict[str, Profile]:
    """Return all profiles by name."""
    return {name: profile_named(name) for name in profile_names()}


@cache
def profile_names() -> tuple[str, ...]:
    """Return the names of all profiles, sorted."""
    files = sorted(os.listdir(FOLDER))
    return tuple(file[: -len(".json")] for file in files if file.endswith(".json"))


@cache
def profile_named(name: str) -> Profile:
    """Return the profile of a name. Raises BadConfig for a damaged file."""
    raw = read_json(FOLDER / f"{name}.json")
    kernels = {
        kind: {format: _read_kernel(entry) for format, entry in by_format.items()}
        for kind, by_format in raw["kernels"].items()
    }
    return Profile(**{"gpu_name": None, "note": ""} | raw | {"kernels": kernels})


def _read_kernel(entry: dict[str, Any]) -> Kernel:
    """Return one kernel of a file."""
    return Kernel(Efficiency(**entry["numbers"]), Evidence(**entry["evidence"]))


@cache
def links() -> Links:
    """Return the collectives of all links."""
    raw = read_json(LINKS_FILE)
    by_link = {
        link: {
            algorithm: {kind: _read_kernel(entry) for kind, entry in by_kind.items()}
            for algorithm, by_kind in by_algorithm.items()
        }
        for link, by_algorithm in raw["links"].items()
    }
    return Links(**raw | {"links": by_link})


def _profiles_of(gpu: GPU) -> list[Profile]:
    """Return the GPU's own profile, if it has one, and the fallback profiles, best first."""
    architecture = max((name for name in _FALLBACKS if gpu.architecture.startswith(name)), key=len)
    own = [profile_named(gpu.name)] if gpu.name in profile_names() else []
    own = [profile for profile in own if profile.gpu_name == gpu.name]
    names = [profile.name for profile in own]
    return own + [profile_named(name) for name in _FALLBACKS[architecture] if name not in names]


def same_chip(gpu: GPU) -> bool:
    """Return whether kernels were measured on the chip of a GPU: same architecture, same number of SMs."""
    measured = [profile for profile in _profiles_of(gpu) if not profile.note]
    return any((profile.architecture, profile.num_sms) == (gpu.architecture, gpu.num_sms) for profile in measured)


def profile_for(gpu: GPU) -> Profile:
    """Return the kernels to use for a GPU, each from the best profile that has it; `note` if none is its own.

    Pieces of work too few for the chip take a number of clocks each, at any peak: a tile waits for memory and unpacks
    narrow weights. So `fill`, which counts in time at the peak, is scaled with the FLOP of the chip in a clock.
    """
    first, *others = _profiles_of(gpu)
    num_sms = gpu.num_sms or first.num_sms
    kernels: dict[str, dict[str, Kernel]] = {}
    for profile in (first, *others):
        for kind, by_format in profile.kernels.items():
            known = kernels.setdefault(kind, {})
            for name, entry in by_format.items():
                if name not in known:
                    scaled = _busier(_rescaled(entry, _fill_scale(gpu, profile)), kind, gpu, profile)
                    scaled = _issued(scaled, kind, gpu, profile)
                    scaled = scaled._replace(profile=profile.name)
                    known[name] = scaled if profile is first else _limited(scaled, name, known.get("bf16"))
    notes = [first.note]
    if first.gpu_name != gpu.name:
        notes.append(
            f"no kernels of {gpu.name} were measured: they are assumed to reach the fractions of peak of {first.name}"
        )
    note = "; ".join(part for part in notes if part)
    return first._replace(kernels=kernels, note=note, num_sms=num_sms, gpu_name=gpu.name)


def bytes_per_clock(gpu: GPU) -> float | None:
    """Return the bytes that the memory of a GPU moves in one clock of its SMs; None if its clock is not known."""
    return gpu.memory_bandwidth / gpu.boost_clock_hz if gpu.boost_clock_hz else None


def flops_per_clock(gpu: GPU) -> float | None:
    """Return the FLOP of all SMs of a GPU in one clock, in 16 bits; None if its clock is not known."""
    peak = gpu.peak_flops.get("bf16", gpu.peak_flops.get("fp16"))
    return peak / gpu.boost_clock_hz if peak and gpu.boost_clock_hz else None


def _fill_scale(gpu: GPU, profile: Profile) -> float:
    """Return `fill` on a GPU over `fill` on the chip of a profile; without a clock, the ratio of their SMs."""
    mine = flops_per_clock(gpu)
    return mine / profile.flops_per_clock if mine else (gpu.num_sms or profile.num_sms) / profile.num_sms


def _busier(entry: Kernel, kind: str, gpu: GPU, profile: Profile) -> Kernel:
    """Return a matrix product on a GPU with fewer FLOP per clock and SM than the measured chip.

    Such a GPU comes closer to its peak, because operands and power limit its tensor cores less: an H20 has less than a
    quarter of the H100's FLOP per clock and reaches 0.90 of its peak, the H100 0.73.
    """
    mine = flops_per_clock(gpu)
    if kind not in _MATMULS or profile.note or not mine or not gpu.num_sms:
        return entry
    slower = profile.flops_per_clock / profile.num_sms / (mine / gpu.num_sms)
    known = entry.numbers.flops
    return _at_rate(entry, max(known, min(known * slower, _MOST_BUSY)))


def _issued(entry: Kernel, kind: str, gpu: GPU, profile: Profile) -> Kernel:
    """Return an elementwise kernel on a GPU with another bandwidth per clock and SM than the measured chip.

    Such a kernel takes a number of clocks for each byte in an SM, beside the time of the bytes in memory:
    1 / fraction = 1 / _MOST_MEMORY + clocks, where `clocks` grows with the bandwidth per clock and SM. Norms and
    activations reach 0.43 of an A100's bandwidth and 0.63 of an A40's, which has a third of it per clock and SM; the
    rule says 0.63 (microsoft/vidur). From an H100's rows of experts (0.44 in 16 bits, 0.34 in fp8) to a B200's it says
    0.29 and 0.21, where 0.28 and 0.19 were measured.
    """
    mine, known = bytes_per_clock(gpu), entry.numbers.memory
    if kind not in _ELEMENTWISE or profile.note or not mine or not gpu.num_sms or known >= _MOST_MEMORY:
        return entry
    wider = mine / gpu.num_sms / (profile.bytes_per_clock / profile.num_sms)
    fraction = 1.0 / (1.0 / _MOST_MEMORY + (1.0 / known - 1.0 / _MOST_MEMORY) * wider)
    return entry._replace(numbers=entry.numbers.model_copy(update={"memory": fraction}))


def _at_rate(entry: Kernel, flops: float) -> Kernel:
    """Return a kernel that reaches another fraction of the peak. A piece of work takes as many clocks as before.

    `fill` counts in time at the rate that is reached, so it is scaled with that rate.
    """
    changed = {"flops": flops, "fill": entry.numbers.fill * flops / entry.numbers.flops}
    return entry._replace(numbers=entry.numbers.model_copy(update=changed))


def _rescaled(entry: Kernel, scale: float) -> Kernel:
    """Return a kernel with `fill` multiplied."""
    if scale == 1.0 or not entry.numbers.fill:
        return entry
    numbers = entry.numbers.model_copy(update={"fill": entry.numbers.fill * scale})
    return entry._replace(numbers=numbers)


def _limited(entry: Kernel, format: str, bf16: Kernel | None) -> Kernel:
    """Return a kernel of another profile, with the compute efficiency of the GPU's own bf16 kernel as its limit.

    The limit holds for kernels that expand weights to 16 bits: the multiplication is that of the bf16 kernel.
    """
    if bf16 is None or not format.endswith("a16") or entry.numbers.flops <= bf16.numbers.flops:
        return entry
    return _at_rate(entry, bf16.numbers.flops)


def _formats_to_try(name: str) -> list[str]:
    """Return `name` and the formats to use instead: bf16_kv8_d64, bf16_kv8, bf16, similar formats, bf16."""
    parts = name.split("_")
    tries = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)]
    base = tries[-1]
    suffixes = [t[len(base) :] for t in tries]
    similar = [other + suffix for other in _SIMILAR_FORMATS.get(base, ()) for suffix in suffixes]
    return list(dict.fromkeys([*tries, *similar, *("bf16" + suffix for suffix in suffixes)]))


def kernel(profile: Profile, kind: str, format: str) -> Found:
    """Return the efficiency of a kind of kernel in a format, or of the most similar one. Raises Unsupported."""
    known = kind if kind in profile.kernels else _SIMILAR_KINDS.get(kind, "elementwise")
    by_format = profile.kernels.get(known, {})
    for name in [*_formats_to_try(format or "bf16"), *by_format]:
        if name in by_format:
            entry, asked = by_format[name], format or "bf16"
            notes = [] if known == kind else [f"{kind}: not measured; the numbers of {known} are used"]
            if name != asked.replace("fp16", "bf16"):  # fp16 and bf16 run at one rate in the same kernels
                notes.append(f"{kind} {asked}: not measured; the numbers of {name} are used")
            if entry.profile not in ("", profile.name):
                remark = f" ({entry.evidence.note})" if entry.evidence.note else ""
                where = f"not measured on {profile.gpu_name}; the fractions of peak of {entry.profile} are assumed"
                notes.append(f"{kind} {name}: {where}{remark}")
            return Found(numbers=entry.numbers, evidence=entry.evidence, notes=tuple(notes))
    raise Unsupported(f"profile {profile.name} has no kernel of kind {kind}; it has {', '.join(profile.kernels)}")


def _link_name(link: str) -> str:
    """Return the key in links.json of a GPU's `link`: NVLink3 for NVLink3+NVSwitch, PCIe for PCIe4 x16."""
    known = [name for name in links().links if link.startswith(name)]
    return max(known, key=len, default="NVLink4")


def collective(link: str, kind: str, group: float, algorithm: str = "nccl") -> Found:
    """Return the efficiency of a collective among `group` GPUs over a link, by NCCL or by an engine's own kernel.

    Engines have a kernel of their own for the all-reduce only. Everything else, and an all-reduce over a link on which
    no engine was measured, is that of NCCL.
    """
    name = _link_name(link)
    notes = (
        []
        if link.startswith(name)
        else [f"collectives over {link or 'this link'}: not measured; the numbers of {name} are used"]
    )
    by_algorithm = links().links[name]
    for chosen, wanted in ((algorithm, kind), ("nccl", kind), ("nccl", "all_gather"), ("nccl", "all_reduce")):
        entry = _for_group(by_algorithm.get(chosen, {}), wanted, group)
        if entry is not None:
            notes += [] if wanted == kind else [f"{kind} over {name}: not measured; the numbers of {wanted} are used"]
            notes += [f"{name}: {entry.evidence.note}"] if entry.evidence.note else []
            return Found(numbers=entry.numbers, evidence=entry.evidence, notes=tuple(notes))
    raise Unsupported(f"no collective was measured over {name}")


def _for_group(entries: dict[str, Kernel], kind: str, group: float) -> Kernel | None:
    """Return the entry for the smallest group size that is at least `group`, else for the largest one."""
    sizes = {
        float(key.partition("/")[2] or "inf"): entry for key, entry in entries.items() if key.split("/")[0] == kind
    }
    fitting = [size for size in sizes if size >= group]
    return sizes[min(fitting) if fitting else max(sizes)] if sizes else None


def kernel_basis(gpu: GPU) -> list[Basis]:
    """Return the measurements behind the kernels of a GPU: those of its profile and of its fallbacks."""
    return [
        Basis(kind, format, entry.profile, entry.profile == gpu.name and _is_fitted(entry), entry.evidence)
        for kind, by_format in profile_for(gpu).kernels.items()
        for format, entry in by_format.items()
    ]


def collective_basis(gpu: GPU) -> list[Basis]:
    """Return the measurements behind the collectives of a GPU, over each link that it has."""
    used = [gpu.link] if gpu.link_domain_size > 1 else []
    used += [gpu.pcie_link] if gpu.gpus_per_server > gpu.link_domain_size and gpu.pcie_bandwidth else []
    used += ["inter-node"] if gpu.inter_node_bandwidth else []
    return [
        Basis(kind, algorithm, name, link.startswith(name) and _is_fitted(entry), entry.evidence)
        for link, name in dict.fromkeys((each, _link_name(each)) for each in used)
        for algorithm, by_kind in links().links[name].items()
        for kind, entry in by_kind.items()
    ]


def _is_fitted(entry: Kernel) -> bool:
    """Return whether a kernel was fitted to measurements of this kernel, and scored on others."""
    return entry.evidence.median_error is not None
