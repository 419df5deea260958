"""The command `compare`: scenarios side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from llm_analysis.cli.commands.infer import PRINTING, asked, infer
from llm_analysis.cli.flags import OUTPUT, Flag, flags_of, with_flags_of
from llm_analysis.cli.output import Output
from llm_analysis.cli.terminal import columns
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
    asked_for = [flags] if scenarios is None else _of_files(scenarios.split(","), flags)
    estimates = [e for each in asked_for for e in estimates_of(each, MOST)]
    found = compare(estimates)
    notes = [note for e in estimates for note in e.notes]
    return Output(rendered(found, flags["format"], columns())).noting(list(dict.fromkeys(notes)), flags["format"])


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


def _of_files(files: Sequence[str], flags: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the flags of each file, with those of the command line for the other ones.

    Raises BadConfig, and BadValue for a flag of the command line that a file would replace.
    """
    defaults = {name: flag.default for name, flag in flags_of(infer).items()}
    given = [name for name in flags if flags[name] != defaults[name] and name not in ("format", "log_level")]
    found = []
    for path in (path_of("scenarios", file) for file in files):
        scenario = _scenario(path)
        if unused := [name for name in given if name in scenario]:
            them, their = ("them", "their values") if len(unused) > 1 else ("it", "its value")
            named = " and ".join(f"--{name}" for name in unused)
            raise BadValue(f"{named} would have no effect: {path} gives {their}; leave {them} out, or change the file")
        found.append({**flags, **scenario})
    return found


def _scenario(path: Path) -> dict[str, Any]:
    """Return the flags in a JSON file; of an answer of infer, the flags that were asked. Raises BadConfig."""
    raw, known = read_json(path), set(flags_of(infer)) - set(PRINTING)
    answer = "operators" in raw
    if "saturation_rate" in raw:
        command = "infer --max_concurrency" if "running_sequences" in raw else "load"
        raise BadConfig(f"{path} is an answer of {command}, for a server; compare takes answers of infer for a batch")
    results = set(KEYS) - known if answer else set()
    wrong: Sequence[str] = [key for key in raw if key not in known and key not in results]
    if wrong:
        raise BadConfig(f"{path}: unknown key {shown(wrong[0])}{nearest(wrong[0], known)}")
    found = {key: value for key, value in raw.items() if key in known}
    if answer and found.get("method") != "published":
        found |= {"flops_efficiency": None, "hbm_memory_efficiency": None}
    return found
