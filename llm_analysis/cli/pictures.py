"""Pictures among the files of a command."""

from math import inf
from pathlib import Path
from typing import Any

from llm_analysis.cli.output import Output
from llm_analysis.cli.writing import existing_folder, path_of
from llm_analysis.errors import BadValue, shown
from llm_analysis.explore.plan import Plan


def picture_path(flag: str, value: str) -> Path:
    """Return the path of a picture to write. Raises LLMAnalysisError, also if matplotlib is missing."""
    from llm_analysis.report.plots import FORMATS, check_matplotlib

    path = path_of(flag, value)
    if path.suffix[1:].lower() not in FORMATS or path.is_dir():
        raise BadValue(f"{flag} must be a file ending in .png or .svg, not {shown(value)}")
    existing_folder(str(path.parent), f"the folder of {flag}")
    check_matplotlib()
    return path


def with_picture(output: Output, path: Path, figure: Any, style: str = "table") -> Output:
    """Return the output with a picture among its files, and a line that names it: on stderr for CSV and JSON."""
    from llm_analysis.report.plots import drawn

    written = f"wrote {path}"
    files = {**output.files, path.name: drawn(figure, path.suffix[1:].lower())}
    output = output._replace(folder=path.parent, files=files)
    if style in ("csv", "json"):
        return output._replace(notes=(*output.notes, written))
    return output._replace(text="\n\n".join(part for part in (output.text, written) if part))


def pareto_figure(found: Plan, *, cost: bool = False) -> Any:
    """Return the front of tokens/s/GPU over tokens/s/user for each GPU of a plan, or its cost."""
    from llm_analysis.report import plots
    from llm_analysis.report.plan import series

    if not found.curves:
        raise BadValue("no point to draw: the model fits on none of the GPUs")
    d, low = found.demand, found.limits
    work = f"{d.input_tokens:,} tokens in, {d.output_tokens:,} out"
    work += f", TTFT within {low.ttft:g} s" if low.ttft < inf else ""
    limit = low.tpot if low.tpot < inf else None
    drawn = series(found, cost=cost)
    if not any(height > 0 for one in drawn for height in one.heights):
        raise BadValue(f"no point to draw: no configuration has a TTFT within {low.ttft:g} s; raise --max_ttft")
    if cost:
        about = f"{work}; the cheapest format, layout and batch at each speed; replicas are not rounded up"
        return plots.cost(drawn, found.model_name, about, limit)
    about = f"{work}; dots: all points searched; lines: the front of each GPU"
    return plots.pareto(drawn, found.model_name, about, limit)
