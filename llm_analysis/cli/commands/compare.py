"""The command `compare`: scenarios side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from llm_analysis.cli.commands.infer import PRINTING, asked, infer
from llm_analysis.cli.flags import OUTPUT, Flag, flags_of, with_flags_of
from llm_analysis.cli.output import Output
from llm_analysis.cli.writing import path_of
from llm_analysis.errors import BadConfig, BadValue, nearest, shown
from llm_analysis.explore.combinations import axes, combinations, count
from llm_analysis.explore.compare import MOST, compare
from llm_analysis.files import read_json
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.estimate import KEYS, Estimate
from llm_analysis.report.compare import rendered
from llm_analysis.report.estimate import check_finite

SINGLE = ("format", "log_level", "allow_download")  # flags of infer with one value


@with_flags_of(infer, without=PRINTING, raw=True)
def compare_command(
    *,
    scenarios: Annotated[
        str | None, Flag("JSON files of flags, or answers of `infer --format json`, joined by commas", OUTPUT)
    ] = None,
    **flags: Any,
) -> Output:
    """Compare two to six scenarios: all quantities, their ratios, and the operators that cause the difference.

    A flag may list values: --gpu_name h100-sxm-80gb,h200-sxm-141gb.
    """
    asked_for = (
        [flags] if scenarios is None else [flags | _scenario(path_of("scenarios", p)) for p in scenarios.split(",")]
    )
    estimates = [e for each in asked_for for e in estimates_of(each, MOST)]
    found = compare(estimates)
    notes = [note for e in estimates for note in e.notes]
    return Output(rendered(found, flags["format"])).noting(list(dict.fromkeys(notes)), flags["format"])


def estimates_of(flags: Mapping[str, Any], most: int) -> list[Estimate]:
    """Return the estimate of each combination of the flags' values. Raises LLMAnalysisError."""
    values = axes(flags, SINGLE)
    if count(values) > most:
        raise BadValue(f"the flags give {count(values):,} scenarios, more than {most}; sweep takes any number")
    return [_estimate(each) for each in combinations(values)]


def _estimate(flags: Mapping[str, Any]) -> Estimate:
    """Return one estimate. Raises LLMAnalysisError."""
    found = estimate(*asked(flags), flags["cost_per_gpu_hour"])
    check_finite(found)
    return found


def _scenario(path: Path) -> dict[str, Any]:
    """Return the flags in a JSON file; of an answer of infer, the flags that were asked. Raises BadConfig."""
    raw, known = read_json(path), set(flags_of(infer)) - set(PRINTING)
    answer = "operators" in raw
    results = set(KEYS) - known if answer else set()
    wrong: Sequence[str] = [key for key in raw if key not in known and key not in results]
    if wrong:
        raise BadConfig(f"{path}: unknown key {shown(wrong[0])}{nearest(wrong[0], known)}")
    found = {key: value for key, value in raw.items() if key in known}
    if answer and found.get("method") != "published":
        found |= {"flops_efficiency": None, "hbm_memory_efficiency": None}
    return found
