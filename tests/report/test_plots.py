"""Pictures: their format, and that no text is cut off or written over another."""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.calibration.measurements import EVIDENCE
from llm_analysis.calibration.validation import score
from llm_analysis.inference.estimate import Estimate
from llm_analysis.report import plots

matplotlib = pytest.importorskip("matplotlib")


def question(model: str, gpu: str, dtype: str, tp: int, batch: int) -> tuple[LLMAnalysis, Estimate]:
    analysis = LLMAnalysis(get_model(model), get_gpu(gpu), get_dtypes(dtype), Parallelism(tp_size=tp))
    return analysis, analysis.inference(batch_size_per_gpu=batch, seq_len=4000, num_tokens_to_generate=500)


def roofline(model: str, gpu: str, dtype: str, tp: int, batch: int) -> Any:
    analysis, estimate = question(model, gpu, dtype, tp, batch)
    return plots.roofline(estimate, analysis.gpu, (analysis.dtypes.math, analysis.dtypes.stream))


def curves() -> plots.Curves:
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    found = [question("llama-3.1-8b", "a100-sxm-80gb", "bf16", 1, batch)[1] for batch in batches]
    tpot, ttft = [e.decode_latency for e in found], [e.prefill_latency for e in found]
    bands = ([t * 0.9 for t in tpot], [t * 1.3 for t in tpot]), ([t * 0.9 for t in ttft], [t * 1.3 for t in ttft])
    rates = [e.decode_tokens_per_sec for e in found], [e.total_tokens_per_sec for e in found]
    return plots.Curves(batches, tpot, ttft, *bands, *rates, [e.fits for e in found])


def series() -> list[plots.Series]:
    users = [10.0, 20.0, 50.0, 80.0]
    names = ("B200", "H200", "H100", "A100")
    return [
        plots.Series(name, users, [900 / (i + 1) - 10 * u / (i + 1) for u in users], (50.0, 400 / (i + 1), "fp8 tp4"))
        for i, name in enumerate(names)
    ]


FIGURES: dict[str, Callable[[], object]] = {
    "roofline of a dense model": lambda: roofline("llama-3.1-70b", "h200-sxm-141gb", "fp8", 4, 28),
    "roofline of a mixture of experts": lambda: roofline("deepseek-v3", "h200-sxm-141gb", "fp8_block", 8, 64),
    "roofline of a small model": lambda: roofline("llama-3.2-1b", "t4", "fp16", 1, 1),
    "breakdown": lambda: plots.breakdown(
        [question("llama-3.1-70b", *rest, 16)[1] for rest in (("h100-sxm-80gb", "fp8", 4), ("b200-sxm", "nvfp4", 2))]
    ),
    "batch": lambda: plots.batch(curves(), "llama-3.1-8b bf16 on 1 x A100", "4,000 tokens in, 500 out", 0.02),
    "pareto": lambda: plots.pareto(series(), "llama-3.1-70b", "4,000 tokens in, 500 out", 0.02),
    "cost": lambda: plots.cost(series(), "llama-3.1-70b", "4,000 tokens in, 500 out", 0.02),
    "parity": lambda: plots.parity(score(EVIDENCE)),
}


@pytest.fixture(scope="module", params=FIGURES)
def figure(request: pytest.FixtureRequest) -> Iterator[Any]:
    with matplotlib.rc_context(plots.STYLE):
        found: Any = FIGURES[request.param]()
        found.canvas.draw()
        yield found


def test_every_axis_has_a_label_and_the_title_is_a_question(figure: Any) -> None:
    axes = figure.axes
    assert any("?" in text.get_text() for text in figure.texts)  # the title of all axes together
    for ax in axes:
        assert ax.get_ylabel() or ax.get_title(loc="left")
    assert any(ax.get_xlabel() or ax.get_title(loc="left") for ax in axes)


def test_no_text_is_cut_off_at_the_edge(figure: Any) -> None:
    width, height = figure.canvas.get_width_height()
    inside = [text for ax in figure.axes for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label)]
    for text in [figure._suptitle, *(text for text in inside if text.get_text())]:
        box = text.get_window_extent()
        assert box.x0 >= -1, text.get_text()
        assert box.x1 <= width + 1, text.get_text()
        assert box.y0 >= -1, text.get_text()
        assert box.y1 <= height + 1, text.get_text()


def test_labels_do_not_overlap(figure: Any) -> None:
    from matplotlib.transforms import Bbox

    for ax in figure.axes:
        straight = [t for t in ax.texts if t.get_rotation() == 0]
        legend = ax.get_legend()
        # An annotation's own box includes its arrow, so the box of the text alone is taken.
        boxes = [(t.get_text(), Bbox(matplotlib.text.Text.get_window_extent(t).get_points())) for t in straight]
        boxes += [("legend", legend.get_window_extent())] if legend else []
        for (one, a), (other, b) in combinations(boxes, 2):
            assert not a.overlaps(b), f"{one!r} overlaps {other!r}"


def test_a_figure_gives_the_same_bytes_each_time(figure: Any) -> None:
    png = plots.drawn(figure, "png")
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") >= 1000
    svg = plots.drawn(figure, "svg")
    assert svg == plots.drawn(figure, "svg")
    assert b"<svg" in svg
    assert png == plots.drawn(figure, "png")


def test_no_point_beats_a_point_of_the_front() -> None:
    x, y = [1.0, 2.0, 3.0, 2.5, 0.5], [10.0, 9.0, 1.0, 0.5, 10.0]
    assert plots.front(x, y, highest=True) == ([1.0, 2.0, 3.0], [10.0, 9.0, 1.0])
    assert plots.front([1.0, 2.0, 3.0], [5.0, 4.0, 6.0], highest=False) == ([2.0, 3.0], [4.0, 6.0])


@pytest.mark.parametrize("kind", ["roofline", "breakdown", "batch", "parity"])
def test_the_command_writes_a_picture(ask: Ask, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "picture.svg"
    flags = ("--model_name", "llama-3.2-1b", "--gpu_name", "h100-sxm-80gb", "--seq_len", "200")
    found = ask("plot", "--kind", kind, "--output_file", str(target), *flags)
    assert (found.status, found.out.strip(), found.err) == (0, f"wrote {target}", "")
    assert b"<svg" in target.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["picture.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "rofline"), "unknown kind 'rofline'; did you mean roofline?"),
        (("--output_file", "picture.jpg"), "output_file must be a file ending in .png or .svg, not 'picture.jpg'"),
        (("--output_file", "/nowhere/picture.png"), "the folder of output_file '/nowhere': no such folder"),
        (("--kind", "batch", "--max_tpot", "20GB"), "max_tpot: unknown unit 'GB'; use s, ms, us"),
        (("--kind", "batch", "--model_name", "phi-2", "--gpu_name", "t4,l4-24gb"), "one of every other flag"),
    ],
)
def test_a_bad_picture_is_one_clear_line(ask: Ask, arguments: tuple[str, ...], message: str) -> None:
    found = ask("plot", *arguments)
    assert (found.status, found.out) == (1, "")
    assert message in found.err
    assert len(found.err.splitlines()) == 1
