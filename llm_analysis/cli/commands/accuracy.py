"""The commands `validate` and `calibrate`: compare estimates with measurements, and fit a runtime to them."""

from math import inf
from typing import Annotated

from llm_analysis.cli.flags import Flag
from llm_analysis.cli.output import Format, Output
from llm_analysis.cli.writing import existing_folder, path_of
from llm_analysis.errors import BadValue, choice, number, shown
from llm_analysis.inference.runtimes import runtime_names
from llm_analysis.report.tables import FORMATS


def validate(
    *,
    measurements: Annotated[
        str | None, Flag("CSV file of measurements; the default is the published figures of this package")
    ] = None,
    load: Annotated[
        bool, Flag("score simulations of servers under load, on the published runs or a CSV of your runs")
    ] = False,
    runtime: Annotated[str | None, Flag("score all rows with this runtime, instead of the runtime of each row")] = None,
    method: Annotated[str, Flag("calibrated or ideal")] = "calibrated",
    format: Format = "table",
    max_median_error: Annotated[
        float | None, Flag("exit with status 1 if the median |error| is above this fraction")
    ] = None,
    max_p90_error: Annotated[
        float | None, Flag("exit with status 1 if the 90th percentile of |error| is above this fraction")
    ] = None,
) -> Output:
    """Compare estimates with published measurements that were left out of the fit."""
    from llm_analysis.calibration.measurements import EVIDENCE
    from llm_analysis.calibration.validation import score
    from llm_analysis.report import accuracy

    choice("format", format, FORMATS)
    choice("method", method, ("calibrated", "ideal"))
    limits = {
        "median |error|": limit("max_median_error", max_median_error),
        "p90 |error|": limit("max_p90_error", max_p90_error),
    }
    if load:
        from llm_analysis.cli.commands.load_accuracy import load_score

        if runtime is not None or method != "calibrated":
            raise BadValue("validate --load takes the runtime of each row: leave out --runtime and --method")
        return load_score(measurements, format, limits)
    result = score(EVIDENCE if measurements is None else path_of("measurements", measurements), runtime, method)
    if not result.rows:
        raise BadValue(accuracy.why_none(result))
    found = zip(limits.items(), (result.overall.median_abs_error, result.overall.p90_abs_error), strict=True)
    over = [f"{name} {error:.1%} is above {most:.1%}" for (name, most), error in found if error > most]
    output = Output(accuracy.score_text(result, format), failure="; ".join(over), status=1 if over else 0)
    return output.noting(accuracy.remarks(result), format)


def limit(flag: str, value: object) -> float:
    """Return a bound on an error as a fraction; infinity if there is none. Raises BadValue."""
    if value is None:
        return inf
    found = number(flag, value)
    if found < 0:
        raise BadValue(f"{flag} must be a fraction from 0 up, not {found:g}")
    return found


def calibrate(
    *,
    measurements: Annotated[
        str | None, Flag("CSV file of your measurements; docs/accuracy.md lists the columns")
    ] = None,
    runtime: Annotated[
        str | None, Flag("runtime to start from; the default is the runtime of the first row, or none")
    ] = None,
    output_file: Annotated[str, Flag("JSON file to write")] = "my-runtime.json",
    format: Format = "table",
) -> Output:
    """Fit a runtime to measurements, for `infer --runtime`."""
    from llm_analysis.calibration import calibrate
    from llm_analysis.report import accuracy

    choice("format", format, FORMATS)
    if measurements is None:
        raise BadValue("--measurements is missing: a CSV of your measurements; docs/accuracy.md lists its columns")
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
