"""Fitted numbers and where they came from: how close each kind of kernel gets to the datasheet's peaks.

A profile is one JSON file in `data/kernels/`: for one GPU, or for an architecture (`gpu_name` left out). GPU facts
live in `gpu_configs/`; nothing here is a fact, everything has evidence. What a GPU's own profile lacks is looked for in
the nearest other one, and the note that comes with the answer tells so:

    profile_for(gpu)            own -> its architecture's -> the nearest architecture's (SPEAK_FOR)
    kernel(profile, kind, fmt)  that format -> without its suffix (bf16_kv8 -> bf16) -> what resembles it -> bf16

`links.json` holds the collectives, by link: NVLink generations, PCIe, the mesh, the network between servers; each
with `nccl` and, where one was measured, `engine`, an inference engine's own all-reduce.
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

# The profiles that may speak for the GPUs of an architecture, nearest first (revision, generation and memory type).
A100, H100 = "a100-sxm-80gb", "h100-sxm-80gb"
SPEAK_FOR = {
    "Volta": ("volta", A100),
    "Turing": ("turing", "volta", A100),
    "Ampere": (A100, H100),
    "Ada": ("l40s-48gb", A100),
    "Hopper": (H100, A100),
    "Blackwell": ("b200-sxm", H100),
    "CDNA2": ("cdna2", A100, H100),
    "CDNA": ("cdna", A100, H100),
    "": (A100,),
}

# A format without numbers of its own, and the formats whose kernels resemble it most, nearest first.
RESEMBLES = {
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

# A kind without numbers of its own, and the one that it is nearest to.
RESEMBLES_KIND = {
    "prefill_scan": "prefill_attention",
    "decode_scan": "decode_attention",
    "prefill_mla_attention": "prefill_attention",
    "decode_mla_attention": "decode_attention",
    "grouped_gemm": "gemm",
}


class Evidence(NamedTuple):
    """Rows that a set of numbers was fitted to, and its errors (fractions of the measured time) on rows held out."""

    rows: int = 0
    median_error: float | None = None
    p90_error: float | None = None
    bias: float | None = None
    source: str = ""
    note: str = ""


class Kernel(NamedTuple):
    """The numbers of one kind of kernel in one format, with their evidence."""

    numbers: Efficiency
    evidence: Evidence


class Profile(NamedTuple):
    """Kernels of a GPU, or of an architecture, by kind and format. `num_sms` is the chip that `fill` was fitted on."""

    name: str
    architecture: str
    gpu_name: str | None
    num_sms: int
    date: str
    note: str
    kernels: dict[str, dict[str, Kernel]]


class Links(NamedTuple):
    """Collectives by link, algorithm and kind; a kind may end in `/n`: for groups of up to n GPUs."""

    name: str
    date: str
    links: dict[str, dict[str, dict[str, Kernel]]]


class Found(NamedTuple):
    """An answer of a look-up: the numbers, their evidence, and notes on every fall-back on the way."""

    numbers: Efficiency
    evidence: Evidence
    notes: tuple[str, ...] = ()


def profiles() -> dict[str, Profile]:
    """All profiles, by name."""
    return {name: profile_named(name) for name in profile_names()}


@cache
def profile_names() -> tuple[str, ...]:
    """The names of all profiles, sorted."""
    files = sorted(os.listdir(FOLDER))
    return tuple(file[: -len(".json")] for file in files if file.endswith(".json"))


@cache
def profile_named(name: str) -> Profile:
    """The profile of that name. Raises BadConfig for a file that is none."""
    raw = read_json(FOLDER / f"{name}.json")
    kernels = {
        kind: {format: read_kernel(entry) for format, entry in by_format.items()}
        for kind, by_format in raw["kernels"].items()
    }
    return Profile(**{"gpu_name": None, "note": ""} | raw | {"kernels": kernels})


def read_kernel(entry: dict[str, Any]) -> Kernel:
    """One kernel of a file. Its numbers are checked here, its evidence by the tests."""
    return Kernel(Efficiency(**entry["numbers"]), Evidence(**entry["evidence"]))


@cache
def links() -> Links:
    """The collectives of all links."""
    raw = read_json(LINKS_FILE)
    by_link = {
        link: {
            algorithm: {kind: read_kernel(entry) for kind, entry in by_kind.items()}
            for algorithm, by_kind in by_algorithm.items()
        }
        for link, by_algorithm in raw["links"].items()
    }
    return Links(**raw | {"links": by_link})


def chain(gpu: GPU | Chip) -> list[tuple[Profile, str]]:
    """The profiles that may speak for a GPU, nearest first, each with the note that using it deserves."""
    known = max((name for name in SPEAK_FOR if gpu.architecture.startswith(name)), key=len)
    found = [(profile_named(gpu.name), "")] if gpu.name in profile_names() else []
    own = [(profile, note) for profile, note in found if profile.gpu_name == gpu.name]
    others = [profile_named(name) for name in SPEAK_FOR[known] if name not in [profile.name for profile, _ in own]]
    note = f"no kernels of {gpu.name} were measured: fractions of peak of "
    return own + [(profile, note + profile.name) for profile in others]


def same_chip(gpu: GPU) -> bool:
    """Whether a GPU's kernels were measured: on it, or on another one with as many SMs of the same architecture."""
    measured = [profile for profile, _ in chain(gpu) if not profile.note]
    return any((profile.architecture, profile.num_sms) == (gpu.architecture, gpu.num_sms) for profile in measured)


class Chip(NamedTuple):
    """What a look-up of profiles depends on."""

    name: str
    architecture: str
    num_sms: int | None


def profile_for(gpu: GPU) -> Profile:
    """Return the profile of a GPU, completed from fallback profiles; `note` says if it is not the GPU's own.

    `fill` counts pieces of work, so it grows with the number of SMs.
    """
    return _profile_for(Chip(gpu.name, gpu.architecture, gpu.num_sms))


@cache
def _profile_for(gpu: Chip) -> Profile:
    (profile, note), *others = chain(gpu)
    num_sms = gpu.num_sms or profile.num_sms
    own_scale = num_sms / profile.num_sms
    kernels = {
        kind: {name: rescaled(entry, own_scale) for name, entry in by_format.items()}
        for kind, by_format in profile.kernels.items()
    }
    for other, _ in others:
        for kind, by_format in other.kernels.items():
            mine = kernels.setdefault(kind, {})
            for name, entry in by_format.items():
                if name not in mine:
                    mine[name] = at_most(borrowed(entry, other, num_sms), name, mine.get("bf16"))
    told = "; ".join(part for part in (profile.note, note) if part)
    return profile._replace(kernels=kernels, note=told, num_sms=num_sms, gpu_name=gpu.name)


def rescaled(entry: Kernel, scale: float) -> Kernel:
    """The same fractions on a chip `scale` times as wide."""
    if scale == 1.0 or not entry.numbers.fill:
        return entry
    numbers = entry.numbers.model_copy(update={"fill": entry.numbers.fill * scale})
    return entry._replace(numbers=numbers)


def borrowed(entry: Kernel, other: Profile, num_sms: int) -> Kernel:
    """A kernel of another profile, its evidence saying so."""
    told = f"borrowed from {other.name}" + (f"; {entry.evidence.note}" if entry.evidence.note else "")
    marked = entry._replace(evidence=entry.evidence._replace(note=told))
    return rescaled(marked, num_sms / other.num_sms)


def at_most(entry: Kernel, format: str, usual: Kernel | None) -> Kernel:
    """A borrowed kernel that expands weights to 16 bits is no closer to the peak than the GPU's own 16-bit one."""
    if usual is None or not format.endswith("a16") or entry.numbers.flops <= usual.numbers.flops:
        return entry
    return entry._replace(numbers=entry.numbers.model_copy(update={"flops": usual.numbers.flops}))


def stand_ins(name: str) -> list[str]:
    """Formats to try for `name`, itself first: bf16_kv8_d64 -> bf16_kv8 -> bf16 and what resembles it -> bf16."""
    parts = name.split("_")
    tries = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)]
    base = tries[-1]
    suffixes = [t[len(base) :] for t in tries]
    like = [other + suffix for other in RESEMBLES.get(base, ()) for suffix in suffixes]
    return list(dict.fromkeys([*tries, *like, *("bf16" + suffix for suffix in suffixes)]))


def kernel(profile: Profile, kind: str, format: str) -> Found:
    """The numbers of a kind of kernel in a format, or of what resembles it most. Raises Unsupported for want of any."""
    known = kind if kind in profile.kernels else RESEMBLES_KIND.get(kind, "elementwise")
    by_format = profile.kernels.get(known, {})
    for name in [*stand_ins(format or "bf16"), *by_format]:
        if name in by_format:
            entry, asked = by_format[name], format or "bf16"
            notes = [] if known == kind else [f"{kind}: numbers of {known} stand in"]
            if name != asked.replace("fp16", "bf16"):  # at the same rate, by the same kernels: not worth a note
                notes.append(f"{kind} {asked}: numbers of {name} stand in")
            notes += [f"{kind} {name}: {entry.evidence.note}"] if entry.evidence.note.startswith("borrowed") else []
            return Found(numbers=entry.numbers, evidence=entry.evidence, notes=tuple(notes))
    raise Unsupported(f"profile {profile.name} has no kernel of kind {kind}; it has {', '.join(profile.kernels)}")


def link_name(link: str) -> str:
    """The key in links.json for a GPU's `link`: NVLink3+NVSwitch is NVLink3, PCIe4 x16 is PCIe."""
    known = [name for name in links().links if link.startswith(name)]
    return max(known, key=len, default="NVLink4")


def collective(link: str, kind: str, group: float, algorithm: str = "nccl") -> Found:
    """The numbers of a collective among `group` GPUs over a link, by NCCL or by an engine's own kernel.

    An engine's kernel covers the all-reduce alone; for the rest, and on links where none was measured, NCCL speaks.
    """
    name = link_name(link)
    notes = [] if link.startswith(name) else [f"no collective over {link or 'this link'} was measured: as {name}"]
    by_algorithm = links().links[name]
    for chosen, wanted in ((algorithm, kind), ("nccl", kind), ("nccl", "all_gather"), ("nccl", "all_reduce")):
        entry = for_group(by_algorithm.get(chosen, {}), wanted, group)
        if entry is not None:
            notes += [] if wanted == kind else [f"{kind} over {name}: numbers of {wanted} stand in"]
            notes += [f"{name}: {entry.evidence.note}"] if entry.evidence.note else []
            return Found(numbers=entry.numbers, evidence=entry.evidence, notes=tuple(notes))
    raise Unsupported(f"no collective was measured over {name}")


def for_group(entries: dict[str, Kernel], kind: str, group: float) -> Kernel | None:
    """The entry for the smallest number of GPUs that `group` fits in, else for the largest."""
    sizes = {
        float(key.partition("/")[2] or "inf"): entry for key, entry in entries.items() if key.split("/")[0] == kind
    }
    fitting = [size for size in sizes if size >= group]
    return sizes[min(fitting) if fitting else max(sizes)] if sizes else None
