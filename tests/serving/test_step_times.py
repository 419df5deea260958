"""The tables of step times against passes whose operators are timed one by one."""

import pytest

from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.passes import mixed_step_ops
from llm_analysis.inference.runtimes import NONE
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.forward import forward
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.serving.step_times import Host, StepTimes, build_step_times, pass_ops

# Dense; latent attention with experts; sliding windows with experts.
MODELS = {"llama-3.1-8b": 1, "deepseek-r1": 8, "gpt-oss-120b": 8}


@pytest.fixture(scope="module", params=MODELS)
def scenario(request: pytest.FixtureRequest) -> tuple[Scenario, StepTimes]:
    layout = Parallelism(tp_size=MODELS[request.param])
    asked = Scenario.of(get_model(request.param), get_gpu("h100-sxm-80gb"), None, layout, runtime=NONE)
    return asked, build_step_times(asked, Host(), 8192, 256, 131072.0)


@pytest.mark.parametrize(
    ("sequences", "context", "tokens", "seen"),
    [(64, 700, 0, 0), (3, 30000, 0, 0), (200, 4000, 0, 0), (50, 1000, 300, 0), (0, 0, 700, 0), (0, 0, 3000, 5000)],
)
def test_a_step_takes_as_long_as_its_operators(
    scenario: tuple[Scenario, StepTimes], sequences: int, context: int, tokens: int, seen: int
) -> None:
    """Within 0.3 %: the tables are linear between points 19 % apart, where the roofline bends."""
    asked, times = scenario

    decode = forward(asked.model, Step(sequences, 1.0, context, "decode"), asked.dtypes, asked.layout)
    prefill = forward(asked.model, Step(1.0, tokens, seen), asked.dtypes, asked.layout) if tokens else []
    both = mixed_step_ops(decode, prefill) if sequences and tokens else decode if sequences else prefill
    chunks = [(tokens, seen)] if tokens else []
    found = times.step_seconds(sequences, sequences * context, chunks, len(chunks))
    assert found == pytest.approx(float(pass_seconds(asked.timed(both))), rel=3e-3)


@pytest.mark.parametrize(("sequences", "tokens"), [(0, 700), (64, 300), (200, 3000)])
def test_a_prompt_passes_all_stages_beside_the_sequences_of_one_micro_batch(sequences: int, tokens: int) -> None:
    asked = Scenario.of(
        get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"), layout=Parallelism(pp_size=2), runtime=NONE
    )
    times = build_step_times(asked, Host(), 8192, 256, 131072.0)
    prefill = pass_ops(asked, Step(1.0, tokens))
    both = mixed_step_ops(pass_ops(asked, Step(sequences, 1.0, 900, "decode")), prefill) if sequences else prefill
    found = times.passage_seconds(sequences, sequences * 900, [(tokens, 0)], 1)
    assert found == pytest.approx(float(pass_seconds(asked.timed(both))), rel=5e-3)


def test_serial_host_time_adds_and_overlapped_host_time_hides() -> None:
    asked = Scenario.of(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"), runtime=NONE)
    bare = build_step_times(asked, Host(), 512, 64, 8192.0)
    gpu = bare.step_seconds(8, 8000, [], 0)
    serial = bare._replace(host=Host(step=2e-3, sequence=1e-4))
    assert serial.step_seconds(8, 8000, [], 0) == pytest.approx(gpu + 2.8e-3)
    overlapped = bare._replace(host=Host(beside=2e-3, beside_sequence=1e-4))
    assert overlapped.step_seconds(8, 8000, [], 0) == gpu
    slow = bare._replace(host=Host(step=2e-3, beside=2e-2))
    assert slow.step_seconds(8, 8000, [], 0) == 2e-2


def test_kernel_launches_bound_only_prefill_beyond_the_cuda_graphs() -> None:
    asked = Scenario.of(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"), runtime=NONE)
    times = build_step_times(asked, Host(prefill=0.5, graph_rows=512), 2048, 64, 8192.0)
    assert times.step_seconds(0, 0, [(513, 0)], 1) == 0.5
    assert times.step_seconds(0, 0, [(512, 0)], 1) < 0.1
    assert times.step_seconds(64, 6400, [], 0) < 0.1
