"""The fit of host times: made-up residuals whose cause is known."""

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("scipy")

from llm_analysis.calibration.fitting import build_host_terms as fit  # noqa: E402


def line(shift: float, factor: float = 0.0, runs: int = 40) -> fit.Line:
    """Values of one engine at many loads: residuals that a shift of its term per step explains, and a factor."""
    prior = np.log(np.array(list(fit._PRIOR.values())))
    slopes = np.zeros((runs, prior.shape[1]))
    slopes[:, 0] = np.linspace(0.0, 1.0, runs)  # from steps that the GPU fills to steps that the host fills
    return fit.Line(
        residuals=-slopes[:, 0] * shift - factor,
        slopes=slopes,
        engines=np.zeros(runs, dtype=int),
        sources=["here" if i % 2 else "there" for i in range(runs)],
        weights=np.full(runs, 10.0),
        groups=np.zeros(runs, dtype=int),
        signs=np.ones(runs),
        at=prior,
    )


def test_a_term_that_explains_the_residuals_is_found() -> None:
    one = line(0.5)
    moved = fit._solved(one) - one.at
    assert moved[0, 0] == pytest.approx(0.5, abs=0.05)


def test_an_engine_without_runs_follows_in_part() -> None:
    one = line(0.5)
    moved = fit._solved(one) - one.at
    assert 0 < moved[1, 0] < moved[0, 0]
    assert moved[1, 1] == pytest.approx(0.0, abs=1e-6)


def test_an_error_of_the_kernels_is_no_host_time() -> None:
    """All latencies of a group 30 % too short at any load: the factor of the group takes that up, not the step."""
    one = line(0.0, factor=0.26)
    assert abs((fit._solved(one) - one.at)[0, 0]) < 0.1


def test_a_source_left_out_has_no_say() -> None:
    one = line(0.5)
    spoilt = one._replace(residuals=np.where([s == "here" for s in one.sources], 5.0, one.residuals))
    assert fit._solved(spoilt, "here") == pytest.approx(fit._solved(one, "here"))
