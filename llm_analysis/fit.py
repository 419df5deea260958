"""Which kernels make a profile: `python -m llm_analysis.fit OPS_FOLDER` rewrites `profiles/`. Needs scipy."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_analysis import expert_data, kernel_data
from llm_analysis.catalog import get_gpu
from llm_analysis.fit_kernel import COMPUTE, FIXED, LEAST_COMPUTE, MOVE, kernels_of
from llm_analysis.fit_links import fit_links
from llm_analysis.fit_published import published_profiles
from llm_analysis.fit_scaled import scaled_profiles
from llm_analysis.hardware import GPU, Efficiency
from llm_analysis.kernel_data import SYSTEMS
from llm_analysis.kernel_tables import Samples
from llm_analysis.profile import FOLDER, LINKS_FILE, Evidence, Kernel, Links, Profile

Kernels = dict[str, dict[str, Kernel]]


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
    content = Links(name="links", date=today, links=fit_links(root))
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
