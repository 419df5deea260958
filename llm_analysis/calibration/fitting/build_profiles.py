"""Build the kernel profiles from tables of measured kernels.

    python -m llm_analysis.calibration.fitting.build_profiles OPS_FOLDER

writes `data/kernels` and `data/links.json`. Needs scipy.

Collectives inside a server are fitted to measurements: NCCL and the all-reduce kernels of engines (aiconfigurator),
sends (vidur). Between servers, the launch time is fitted to small all-reduces and sends of two DGX servers (vidur), and
the bandwidth fraction is that of DeepEP over InfiniBand. Links without measurements use the numbers of a similar link.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llm_analysis.calibration.fitting import measured_kernels
from llm_analysis.calibration.fitting.build_runtimes import FIT_DATE
from llm_analysis.calibration.fitting.kernel_fit import (
    CHUNKED,
    COMPUTE,
    FIXED,
    GROUPED,
    LEAST_COMPUTE,
    MOVE,
    NETWORK,
    kernels_of,
)
from llm_analysis.calibration.fitting.measured_kernels import SYSTEMS, Samples, read_table, where
from llm_analysis.calibration.fitting.scaled_profiles import published_profiles, scaled_profiles
from llm_analysis.catalog import get_gpu
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import (
    FOLDER,
    LINKS_FILE,
    Evidence,
    Kernel,
    Links,
    Profile,
    bytes_per_clock,
    flops_per_clock,
)
from llm_analysis.hardware.roofline import Efficiency
from llm_analysis.models.layers.feed_forward import AROUND_EXPERTS
from llm_analysis.physics.collectives import all_reduce, collective
from llm_analysis.units import Array

Kernels = dict[str, dict[str, Kernel]]


def _fit_gpu(ops_folder: Path, system: str, gpu: GPU) -> Kernels:
    """Return the fitted kernels of one GPU, by kind and format."""
    folder = ops_folder / system
    kernels: Kernels = {}
    for samples in measured_kernels.gemms(folder, gpu):
        _add_gemm(kernels, samples, gpu)
    found = [*measured_kernels.grouped_gemms(folder, gpu)]
    for phase in ("prefill", "decode"):
        found += [
            *measured_kernels.attentions(folder, gpu, phase),
            *measured_kernels.latent_attentions(folder, gpu, phase),
        ]
    for samples in found:
        kind = samples.op.kind
        fixed = (GROUPED if kind == "grouped_gemm" else {}) | FIXED.get((gpu.name, kind), {})
        names = tuple(name for name in COMPUTE if name not in fixed)
        _add(kernels, samples, *kernels_of([samples], gpu, names, fixed, LEAST_COMPUTE.get((gpu.name, kind), {})))
    for samples in measured_kernels.elementwises(ops_folder.parent / "vidur" / "profiling" / "compute", gpu):
        kernels.setdefault(samples.op.kind, {})["bf16"] = kernels_of([samples], gpu, MOVE)[0]
    return kernels


def _add_gemm(kernels: Kernels, samples: Samples, gpu: GPU) -> None:
    """Fit one format of GEMM and add it to `kernels`.

    If the measured time includes the quantization of the inputs, the launch times of the two kernels cannot be
    separated, so the GEMM then gets the launch time of the bf16 GEMM.
    """
    fixed = {"launch": kernels["gemm"]["bf16"].numbers.launch} if samples.along else {}
    _add(kernels, samples, *kernels_of([samples], gpu, COMPUTE, fixed))


def _add(kernels: Kernels, samples: Samples, entry: Kernel, along: Efficiency | None) -> None:
    """Add a fitted kernel to `kernels`, and the kernels that were measured and fitted along with it."""
    if along is not None:
        kind = samples.along[0].kind
        note = f"fitted together with {_MEASURED_ALONG[kind]} (kind {kind}): errors are of both"
        notes = "; ".join(part for part in (entry.evidence.note, note) if part)
        entry = entry._replace(evidence=entry.evidence._replace(note=notes))
        kernels.setdefault(kind, {})[samples.op.format] = Kernel(numbers=along, evidence=entry.evidence)
    kernels.setdefault(samples.op.kind, {})[samples.op.format] = entry


_MEASURED_ALONG = {
    "quantize": "the kernel that quantises the inputs",
    AROUND_EXPERTS: "the kernels that prepare the rows of experts and add their outputs",
}


def _fit_kernels(ops_folder: str | Path, into: Path = FOLDER) -> list[Path]:
    """Fit every GPU and link in a folder of measured kernels, write one profile each, and return the paths.

    If present, `ops_folder`/../vidur adds elementwise kernels and sends, and `ops_folder`/../microbench.csv adds the
    scaled profiles.
    """
    root = Path(ops_folder)
    made = {name: _fit_profile(root, system, get_gpu(name)) for system, name in SYSTEMS.items()}
    fitted_profiles = [*made.values()]
    if (root.parent / "microbench.csv").is_file():
        fitted_profiles += scaled_profiles(root.parent / "microbench.csv", made, FIT_DATE)
        fitted_profiles += published_profiles(root.parent / "microbench.csv", made, FIT_DATE)
    content = Links(name="links", date=FIT_DATE, links=_fit_links(root))
    return [
        *(write(into / f"{p.name}.json", p) for p in fitted_profiles),
        write(into.parent / LINKS_FILE.name, content),
    ]


def _fit_profile(ops_folder: Path, system: str, gpu: GPU) -> Profile:
    """Return the fitted profile of a GPU with measured kernels."""
    return Profile(
        name=gpu.name,
        architecture=gpu.architecture,
        gpu_name=gpu.name,
        num_sms=gpu.num_sms or 1,
        date=FIT_DATE,
        note="",
        flops_per_clock=flops_per_clock(gpu) or 0.0,
        bytes_per_clock=bytes_per_clock(gpu) or 0.0,
        kernels=_fit_gpu(ops_folder, system, gpu),
    )


def write(path: Path, content: Profile | Links) -> Path:
    """Write a profile or the links as JSON with one kernel per line; return the path."""
    path.write_text(laid_out(plain(content)) + "\n", encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """Return a record as dicts and numbers for JSON, without the fields that have their default value."""
    if isinstance(value, Efficiency):
        return value.model_dump(exclude_defaults=True)
    if isinstance(value, (Profile, Links, Kernel, Evidence)):
        unknown = {"gpu_name": None, "note": ""} | value._field_defaults
        return {key: plain(v) for key, v in value._asdict().items() if key not in unknown or v != unknown[key]}
    return {key: plain(v) for key, v in value.items()} if isinstance(value, dict) else value


def laid_out(value: Any, depth: int = 0) -> str:
    """Return nested dicts as indented JSON; a dict with the key `numbers` is written on one line."""
    if not isinstance(value, dict) or "numbers" in value:
        return json.dumps(value)
    pad = "  " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {laid_out(inner, depth + 1)}" for key, inner in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"


_LinkKernels = dict[str, dict[str, dict[str, Kernel]]]

_LINKS = {"a100_sxm": "NVLink3", "h100_sxm": "NVLink4", "b200_sxm": "NVLink5", "l40s": "PCIe"}

# In the measured L40S server, GPUs communicate through the host: a collective of 4 GPUs reaches a quarter and one of 8
# GPUs a twelfth of the bandwidth of 2 GPUs. Published prefill times of other L40S servers (TensorRT-LLM 0.9, 4 GPUs)
# fit the bandwidth of 2 GPUs. Therefore the link "PCIe" is fitted to groups of 2, and to small messages of all groups
# for the latency; "PCIe through the host" has a separate fit for each group size.
PAIRED, SHARED = "PCIe", "PCIe through the host"
SMALL_MESSAGE, SMALL_BETWEEN = 13, 15  # log2 of bytes: inside a server, between two servers


def _fit_links(ops_folder: Path) -> _LinkKernels:
    """Return the fitted collectives by link, algorithm and kind; sends are fitted to `ops_folder`/../vidur."""
    links: _LinkKernels = {}
    for system, link in _LINKS.items():
        gpu = get_gpu(SYSTEMS[system])
        for algorithm in ("nccl", "engine"):
            for name, key, samples in _keyed_collectives(ops_folder / system, link, algorithm):
                entry = kernels_of(samples, gpu, NETWORK, lowest=CHUNKED)[0]
                links.setdefault(name, {}).setdefault(algorithm, {})[key] = entry
    vidur = ops_folder.parent / "vidur" / "profiling" / "network"
    for system, name in _SERVERS.items() if vidur.is_dir() else ():
        entry = kernels_of([sends(vidur / system, 2)], get_gpu(_SERVER_GPUS[system]), ("launch", "link"))[0]
        links[name]["nccl"]["send"] = entry
    return links | _unmeasured_links(links) | _between_servers(links, vidur)


# Sends between two GPUs, in one DGX server or in two (microsoft/vidur, MIT), launched by the host.
_SERVERS = {"a100_dgx": "NVLink3", "h100_dgx": "NVLink4"}
_SERVER_GPUS = {"a100_dgx": "a100-sxm-80gb", "h100_dgx": "h100-sxm-80gb"}
BEYOND = 9  # span of a collective over two servers of 8 GPUs


def sends(folder: Path, in_server: int) -> Samples:
    """Return the sends between two GPUs; `in_server` is the number of GPUs used per server, 1 or 2."""
    table = read_table(folder / "send_recv.csv")
    rows = where(table, table["devices_per_node"] == in_server)
    (op,) = collective("send", "send", rows["size"], 2, span=2 if in_server == 2 else BEYOND)
    return Samples(op, rows["time_stats.send_recv.median"] * 1e-3, _by_octave(rows["size"]), "vidur, network")


def small_all_reduces(folder: Path) -> Samples:
    """Return the all-reduces of two GPUs in separate servers with messages up to 2^SMALL_BETWEEN bytes.

    The time of such small messages is latency; bandwidth hardly matters.
    """
    table = read_table(folder / "all_reduce.csv")
    keep = (table["num_workers"] == 2) & (table["devices_per_node"] == 1) & (table["size"] <= 2**SMALL_BETWEEN)
    rows = where(table, keep)
    (op,) = all_reduce("all_reduce", rows["size"], 2, node=2)
    seconds = rows["time_stats.all_reduce.median"] * 1e-3
    return Samples(op._replace(span=BEYOND), seconds, _by_octave(rows["size"]), "vidur, network")


def _by_octave(size: Array) -> Array:
    """Return floor(log2(size)), so that messages of similar size go to the same fold."""
    return np.asarray(np.floor(np.log2(size)))


def _between_servers(links: _LinkKernels, vidur: Path) -> _LinkKernels:
    """Return the collectives between servers.

    The launch time is measured (vidur), the bandwidth fraction is that of DeepEP, and the latency is that of NVLink4.
    """
    known = {
        kind: _stand_in(entry, _INTER_NODE_FRACTION, _INTER_NODE) for kind, entry in links["NVLink4"]["nccl"].items()
    }
    if vidur.is_dir():
        gpu, fixed = get_gpu("a100-sxm-80gb"), {"link": _INTER_NODE_FRACTION}
        reduced = kernels_of([small_all_reduces(vidur / "a100_dgx")], gpu, ("launch",), fixed)[0]
        sent = kernels_of([sends(vidur / "h100_dgx", 1)], get_gpu("h100-sxm-80gb"), ("launch", "link"))[0]
        known = {
            kind: _measured_launch(entry, reduced if kind == "all_reduce" else sent) for kind, entry in known.items()
        }
        known["send"] = sent
    return {"inter-node": {"nccl": known}}


def _measured_launch(entry: Kernel, measured: Kernel) -> Kernel:
    """Return `entry` with the launch time of `measured`."""
    return entry._replace(numbers=entry.numbers.model_copy(update={"launch": measured.numbers.launch}))


def _keyed_collectives(folder: Path, link: str, algorithm: str) -> list[tuple[str, str, list[Samples]]]:
    """Return (link, kind, samples) of each fit of one link's measurements; PCIe is fitted as two links."""
    by_key: dict[tuple[str, str], list[Samples]] = {}
    for group, samples in measured_kernels.collectives(folder, algorithm):
        kind = samples.op.kind
        if link == PAIRED:
            by_key.setdefault((SHARED, f"{kind}/{group}"), []).append(samples)
            samples = samples if group == 2 else samples.part(samples.shape <= SMALL_MESSAGE)
        by_key.setdefault((link, kind), []).append(samples)
    return [(*key, samples) for key, samples in by_key.items()]


def _unmeasured_links(links: _LinkKernels) -> _LinkKernels:
    """Return the collectives of links without tables.

    NVLink2 has the numbers of NVLink3, xGMI those of NVLink4, PCIe without peer access those of 4 GPUs of the L40S
    server, whose data goes through the host's memory too.
    """
    nccl, older = links["NVLink4"]["nccl"], links["NVLink3"]["nccl"]
    mesh = {f"{kind}/{n}": _stand_in(nccl[kind], link, _XGMI) for kind in nccl for n, link in _XGMI_FRACTIONS.items()}
    second = {kind: _stand_in(entry, entry.numbers.link, "NVLink3's numbers") for kind, entry in older.items()}
    through_host = {
        key.removesuffix("/4"): _stand_in(entry, entry.numbers.link, _THROUGH_HOST)
        for key, entry in links[SHARED]["nccl"].items()
        if key.endswith("/4")
    }
    return {"NVLink2": {"nccl": second}, "xGMI": {"nccl": mesh}, "PCIe without peer access": {"nccl": through_host}}


_THROUGH_HOST = "numbers of 4 L40S that share the way through the host's memory"

# RCCL on MI300X reaches 47.7 GB/s between 2 GPUs, connected by one link of 64 GB/s, and 312.9 GB/s among 8 GPUs with 7
# such links each (ml-engineering). The fractions are relative to the links between the GPUs of the group.
_XGMI_FRACTIONS = {2: 47.7 / 64, 4: 47.7 / 64, 8: 312.9 / (7 * 64)}
_XGMI = "latencies of NVLink4; bandwidth fractions of an MI300X (ml-engineering), interpolated for 4 GPUs"
_INTER_NODE_FRACTION = 43 / 50
_INTER_NODE = (
    "launch measured between DGX servers (vidur), latency of NVLink4, bandwidth fraction of DeepEP over InfiniBand"
)


def _stand_in(entry: Kernel, link: float, note: str) -> Kernel:
    """Return a collective with another bandwidth fraction `link`, and a note in place of fit errors."""
    evidence = Evidence(source=entry.evidence.source, note=note)
    return Kernel(numbers=entry.numbers.model_copy(update={"link": round(link, 4)}), evidence=evidence)


if __name__ == "__main__":
    for line in _fit_kernels(sys.argv[1]):
        print(line)
