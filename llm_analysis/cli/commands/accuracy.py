"""The commands that hold the method against measurements: `validate` and `calibrate`. Flags in, a result out."""

from __future__ import annotations

from math import inf

from llm_analysis.cli.output import Output, existing_folder, path_of
from llm_analysis.errors import BadValue, choice, number, shown
from llm_analysis.inference.runtimes import runtime_names
from llm_analysis.report.tables import FORMATS


def validate(
    *,
    measurements: str | None = None,
    runtime: str | None = None,
    method: str = "calibrated",
    format: str = "table",
    max_median_error: float | None = None,
    max_p90_error: float | None = None,
) -> Output:
    """How far estimates are from published figures that no fit has seen.

    Args:
        measurements: a CSV of your own; by default the published figures that come with the program
        runtime: score all rows as this runtime, instead of each row's own
        method: calibrated or ideal
        format: table, json, csv or markdown
        max_median_error: exit with 1 where the median |error|, a fraction, is above this
        max_p90_error: exit with 1 where nine tenths of the rows are not within this
    """
    from llm_analysis.calibration.measurements import EVIDENCE
    from llm_analysis.calibration.validation import score
    from llm_analysis.report import accuracy

    choice("format", format, FORMATS)
    choice("method", method, ("calibrated", "ideal"))
    limits = {
        "median |error|": limit("max_median_error", max_median_error),
        "p90 |error|": limit("max_p90_error", max_p90_error),
    }
    result = score(EVIDENCE if measurements is None else path_of("measurements", measurements), runtime, method)
    if not result.rows:
        reason = result.skipped[0][1] if result.skipped else "all of them are set apart"
        own = runtime is None and reason.startswith("unknown runtime")
        raise BadValue(f"no row could be estimated: {reason}{'; --runtime scores all rows as one' if own else ''}")
    found = zip(limits.items(), (result.overall.median_abs_error, result.overall.p90_abs_error), strict=True)
    over = [f"{name} {error:.1%} is above {most:.1%}" for (name, most), error in found if error > most]
    output = Output(accuracy.score_text(result, format), failure="; ".join(over))
    return output.noting(accuracy.remarks(result), format)


def limit(flag: str, value: object) -> float:
    """A bound on an error, as a fraction; infinite where none is given. Raises BadValue."""
    if value is None:
        return inf
    found = number(flag, value)
    if found < 0:
        raise BadValue(f"{flag} must be a fraction from 0 up, not {found:g}")
    return found


def calibrate(
    *,
    measurements: str | None = None,
    runtime: str | None = None,
    output_file: str = "my-runtime.json",
    format: str = "table",
) -> Output:
    """Fits a runtime to measurements of your own, for infer --runtime.

    Args:
        measurements: a CSV with the columns of the published figures; from one row on
        runtime: the runtime to start from; by default that of the first row, for an engine of your own none
        output_file: the JSON file to write
        format: table, json, csv or markdown
    """
    from llm_analysis.calibration import calibrate
    from llm_analysis.report import accuracy

    choice("format", format, FORMATS)
    if measurements is None:
        raise BadValue("calibrate needs --measurements, a CSV of what you measured; the README shows its columns")
    target = path_of("output_file", output_file)
    if target.suffix != ".json":
        raise BadValue(f"output_file must end in .json, not {shown(output_file)}")
    if target.is_dir():
        raise BadValue(f"output_file {shown(output_file)} is a folder")
    folder = existing_folder(str(target.parent), "the folder of output_file")
    name = f"my-{target.stem}" if target.stem in runtime_names() else target.stem
    found = calibrate.calibrated(path_of("measurements", measurements), runtime, name)
    output = Output(
        accuracy.calibration_text(found, format, str(target)), folder, {target.name: calibrate.as_json(found.runtime)}
    )
    return output.noting(found.notes, format)
