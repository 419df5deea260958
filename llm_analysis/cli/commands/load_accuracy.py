"""`validate --load`: score simulations of serving under load on published figures."""

from collections.abc import Mapping
from statistics import median

from llm_analysis.calibration.load_runs import LOAD_EVIDENCE, THROUGHPUTS, read_runs
from llm_analysis.calibration.load_scores import errors_by_class, goodput_scores, score_load
from llm_analysis.calibration.validation import beyond_positions, unit_remarks
from llm_analysis.cli.output import Output
from llm_analysis.cli.writing import path_of
from llm_analysis.errors import BadValue
from llm_analysis.report.load_accuracy import rendered


def load_score(measurements: str | None, format: str, limits: Mapping[str, float]) -> Output:
    """Return the score of a table of runs; by default of the published selection.

    `limits` bound the median and the p90 of |error| of the middle class of metrics. Raises LLMAnalysisError.
    """
    path = LOAD_EVIDENCE if measurements is None else path_of("measurements", measurements)
    scored, skipped = score_load(path)
    if not scored:
        raise BadValue(f"no row could be estimated: {skipped[0][1] if skipped else 'the table is empty'}")
    goodput = goodput_scores(read_runs(path)[0])
    classes = errors_by_class([*scored, *goodput])
    # The median over the classes, because one run beyond saturation can have a TTFT of any size.
    middle = [
        median([getattr(c, name) for c in classes]) if classes else 0.0
        for name in ("median_abs_error", "p90_abs_error")
    ]
    over = [
        f"the {name} is above {most:.1%}: {error:.1%}, the median over the classes of metrics"
        for (name, most), error in zip(limits.items(), middle, strict=True)
        if error > most
    ]
    latencies = [row.error for _, row in scored if row.metric not in THROUGHPUTS]
    remarks = unit_remarks(latencies, "measured latencies", "value")
    lengths = ((row.id, run.model_name, run.mean_input + run.mean_output) for run, row in scored)
    remarks += beyond_positions(lengths)
    text = rendered(scored, goodput, skipped, format)
    if format in ("table", "markdown"):  # CSV and JSON have no place for a note; that of CSV is on stderr
        text = "\n".join([text, *remarks])
    output = Output(text, failure="; ".join(over), status=1 if over else 0)
    return output.noting(remarks, format)
