"""Which kernels make a profile: `python -m llm_analysis.fit OPS_FOLDER` rewrites `profiles/`. Needs scipy."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_analysis import expert_data, kernel_data
from llm_analysis.catalog import get_gpu
from llm_analysis.fit_kernel import CHUNKED, COMPUTE, FIXED, LEAST_COMPUTE, MOVE, NETWORK, kernels_of
from llm_analysis.fit_published import published_profiles
from llm_analysis.fit_scaled import scaled_profiles
from llm_analysis.hardware import GPU, Efficiency
from llm_analysis.kernel_data import SYSTEMS
from llm_analysis.kernel_tables import Samples
from llm_analysis.profile import FOLDER, LINKS_FILE, Evidence, Kernel, Links, Profile

Kernels = dict[str, dict[str, Kernel]]
LinkKernels = dict[str, dict[str, dict[str, Kernel]]]


def fit_gpu(ops_folder: Path, system: str, gpu: GPU) -> Kernels:
    """All kernels measured on one GPU, by kind and format."""
    folder = ops_folder / system
    kernels: Kernels = {}
    for samples in kernel_data.gemms(folder, gpu):
        add_gemm(kernels, samples, gpu)
    found = [*expert_data.grouped_gemms(folder, gpu)]
    for phase in ("prefill", "decode"):
        found += [*kernel_data.attentions(folder, gpu, phase), *kernel_data.latent_attentions(folder, gpu, phase)]
    for samples in found:
        fixed, lowest = FIXED.get((gpu.name, samples.op.kind), {}), LEAST_COMPUTE.get((gpu.name, samples.op.kind), {})
        names = tuple(name for name in COMPUTE if name not in fixed)
        entry, _ = kernels_of([samples], gpu, names, fixed, lowest)
        kernels.setdefault(samples.op.kind, {})[samples.op.format] = entry
    for samples in kernel_data.elementwises(ops_folder.parent / "vidur" / "profiling" / "compute", gpu):
        kernels.setdefault(samples.op.kind, {})["bf16"] = kernels_of([samples], gpu, MOVE)[0]
    return kernels


def add_gemm(kernels: Kernels, samples: Samples, gpu: GPU) -> None:
    """A format of GEMM; where quantising was measured along, the GEMM itself is launched as the 16-bit one is."""
    gemm = kernels.setdefault("gemm", {})
    fixed = {"launch": gemm["bf16"].numbers.launch} if samples.before is not None else {}
    entry, along = kernels_of([samples], gpu, COMPUTE, fixed)
    if along is not None:
        note = "fitted together with the kernel that quantises the inputs (kind quantize): errors are of both"
        told = "; ".join(t for t in (entry.evidence.note, note) if t)
        entry = entry._replace(evidence=entry.evidence._replace(note=told))
        before = Kernel(numbers=along, evidence=entry.evidence)
        kernels.setdefault("quantize", {})[samples.op.format] = before
    gemm[samples.op.format] = entry


LINKS = {"a100_sxm": "NVLink3", "h100_sxm": "NVLink4", "b200_sxm": "NVLink5", "l40s": "PCIe"}

# The measured L40S reach each other through the host: 4 share a quarter, 8 a twelfth of what a pair has. Published
# prefill of L40S servers (TensorRT-LLM 0.9, 4 GPUs) shows the pair's bandwidth, so PCIe is fitted to pairs, with the
# latency of the small messages of all; what the shared way gives is kept apart, by number of GPUs.
PAIRED, SHARED = "PCIe", "PCIe through the host"
SMALL_MESSAGE = 13  # log2 of bytes


def fit_links(ops_folder: Path) -> LinkKernels:
    """Collectives by link, algorithm and kind."""
    links: LinkKernels = {}
    for system, link in LINKS.items():
        gpu = get_gpu(SYSTEMS[system])
        for algorithm in ("nccl", "engine"):
            for name, key, samples in keyed_collectives(ops_folder / system, link, algorithm):
                entry = kernels_of(samples, gpu, NETWORK, lowest=CHUNKED)[0]
                links.setdefault(name, {}).setdefault(algorithm, {})[key] = entry
    return links


def keyed_collectives(folder: Path, link: str, algorithm: str) -> list[tuple[str, str, list[Samples]]]:
    """Link, kind and samples of each fit over a link."""
    by_key: dict[tuple[str, str], list[Samples]] = {}
    for group, samples in kernel_data.collectives(folder, algorithm):
        kind = samples.op.kind
        if link == PAIRED:
            by_key.setdefault((SHARED, f"{kind}/{group}"), []).append(samples)
            samples = samples if group == 2 else samples.part(samples.shape <= SMALL_MESSAGE)
        by_key.setdefault((link, kind), []).append(samples)
    return [(*key, samples) for key, samples in by_key.items()]


# Links that only a few figures are known of: whose numbers stand in, and what is known.
def unmeasured_links(links: LinkKernels) -> LinkKernels:
    """NVLink2, AMD's mesh and the network between servers, from the nearest measured link."""
    nccl, older = links["NVLink4"]["nccl"], links["NVLink3"]["nccl"]
    mesh = {f"all_reduce/{n}": stand_in(nccl["all_reduce"], link, XGMI) for n, link in XGMI_FRACTIONS.items()}
    mesh |= {kind: stand_in(entry, XGMI_FRACTIONS[8], XGMI) for kind, entry in nccl.items() if kind != "all_reduce"}
    network = {kind: stand_in(entry, INTER_NODE_FRACTION, INTER_NODE) for kind, entry in nccl.items()}
    second = {kind: stand_in(entry, entry.numbers.link, "NVLink3's numbers") for kind, entry in older.items()}
    return {"NVLink2": {"nccl": second}, "xGMI": {"nccl": mesh}, "inter-node": {"nccl": network}}


# RCCL on MI300X: 47.7 GB/s between 2 GPUs (one link of 64 of the mesh), 313 of 448 GB/s among 8 (ml-engineering).
XGMI_FRACTIONS = {2: 47.7 / 448, 4: 3 * 47.7 / 448, 8: 312.9 / 448}
XGMI = (
    "latencies of NVLink4; bandwidth fractions from MI300X all-reduce bus bandwidths (ml-engineering); 4 interpolated"
)
INTER_NODE_FRACTION = 43 / 50
INTER_NODE = "latencies of NVLink4, likely too short; bandwidth fraction from DeepEP over InfiniBand (43 of 50 GB/s)"


def stand_in(entry: Kernel, link: float, note: str) -> Kernel:
    """A collective's numbers over another link."""
    evidence = Evidence(source=entry.evidence.source, note=note)
    return Kernel(numbers=entry.numbers.model_copy(update={"link": round(link, 4)}), evidence=evidence)


def fit_kernels(ops_folder: str | Path, into: Path = FOLDER) -> list[Path]:
    """Fits every GPU system and link in a folder of measured kernels; writes one profile each. Returns their paths.

    `ops_folder`/../microbench.csv and ../vidur, where they are, give elementwise kernels and the scaled profiles.
    """
    root, today = Path(ops_folder), datetime.now(timezone.utc).date().isoformat()
    made = {name: fit_profile(root, system, get_gpu(name), today) for system, name in SYSTEMS.items()}
    fitted_profiles = [*made.values()]
    if (root.parent / "microbench.csv").is_file():
        fitted_profiles += scaled_profiles(root.parent / "microbench.csv", made, today)
        fitted_profiles += published_profiles(root.parent / "microbench.csv", made, today)
    links = fit_links(root)
    content = Links(name="links", date=today, links=links | unmeasured_links(links))
    return [*(write(into / f"{p.name}.json", p) for p in fitted_profiles), write(into / LINKS_FILE, content)]


def fit_profile(ops_folder: Path, system: str, gpu: GPU, date: str) -> Profile:
    """The profile of a GPU whose kernels were measured."""
    return Profile(
        name=gpu.name,
        architecture=gpu.architecture,
        gpu_name=gpu.name,
        num_sms=gpu.num_sms or 1,
        date=date,
        note="",
        kernels=fit_gpu(ops_folder, system, gpu),
    )


def write(path: Path, content: Profile | Links) -> Path:
    """Writes a profile, one kernel a line."""
    path.write_text(laid_out(plain(content)) + "\n", encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """A record, and those in it, as what a JSON file holds: without what is not known."""
    if isinstance(value, Efficiency):
        return value.model_dump(exclude_defaults=True)
    if isinstance(value, (Profile, Links, Kernel, Evidence)):
        unknown = {"gpu_name": None, "note": ""} | value._field_defaults
        return {key: plain(v) for key, v in value._asdict().items() if key not in unknown or v != unknown[key]}
    return {key: plain(v) for key, v in value.items()} if isinstance(value, dict) else value


def laid_out(value: Any, depth: int = 0) -> str:
    """JSON of nested objects, where an object with `numbers` in it stays on one line."""
    if not isinstance(value, dict) or "numbers" in value:
        return json.dumps(value)
    pad = "  " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {laid_out(inner, depth + 1)}" for key, inner in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"


if __name__ == "__main__":
    for line in fit_kernels(sys.argv[1]):
        print(line)
