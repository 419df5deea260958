"""Speculative decoding under load: step times, the closed form, the simulation, and the flags."""

import json

import pytest
from conftest import Ask

from llm_analysis import estimate
from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.question import own_draft
from llm_analysis.inference.runtimes import NONE, get_runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.forward import forward
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.serving.lengths import uniform
from llm_analysis.serving.metrics import summarize
from llm_analysis.serving.policies import policy_of
from llm_analysis.serving.server import Workload, build_server
from llm_analysis.serving.steady_state import steady_state
from llm_analysis.serving.step_times import Host, Speculation, build_step_times

THREE = Speculation(3, 1 + 0.7 + 0.7**2 + 0.7**3)
FLAGS = ("--draft_model_name", "llama-3.2-1b", "--num_draft_tokens", "3", "--acceptance_rate", "0.7")
SERVER = ("--model_name", "llama-3.1-70b", "--gpu_name", "h100-sxm-80gb", "--dtype_name", "fp8", "--tp_size", "4")


def scenario(runtime: str = "vllm-v1") -> Scenario:
    parts = get_model("llama-3.1-70b"), get_gpu("h100-sxm-80gb")
    used, draft = get_runtime(runtime), get_model("llama-3.2-1b")
    return Scenario.of(*parts, layout=Parallelism(tp_size=4), runtime=used, draft=draft)


@pytest.mark.parametrize(("name", "draft"), [("llama-3.1-8b", "llama-3.2-1b"), ("deepseek-r1", "mtp")])
def test_a_step_checks_the_drafted_tokens_after_the_passes_of_the_draft(name: str, draft: str) -> None:
    model, layout = get_model(name), Parallelism(tp_size=8)
    drafting = own_draft(model) if draft == "mtp" else get_model(draft)
    asked = Scenario.of(model, get_gpu("h200-sxm-141gb"), layout=layout, runtime=NONE, draft=drafting)
    times = build_step_times(asked, Host(), 8192, 64, 131072.0, Speculation(2, 2.0))
    small = asked.of_draft()
    assert small is not None
    step = Step(32.0, 3.0, 2000.0, "decode")
    checked = pass_seconds(asked.timed(forward(model, step, asked.dtypes, layout)))
    one = step._replace(new_tokens=1.0)
    drafted = pass_seconds(small.timed(forward(drafting, one, small.dtypes, small.layout)))
    assert times.step_seconds(32, 32 * 2000, [], 0) == pytest.approx(float(checked + 2 * drafted), rel=5e-3)


def test_one_request_in_flight_has_the_tpot_of_a_static_batch() -> None:
    drafts = {"draft_model_name": "llama-3.2-1b", "num_draft_tokens": 3, "acceptance_rate": 0.7}
    static = estimate("llama-3.1-70b", "h100-sxm-80gb", tp_size=4, seq_len=1024, num_tokens_to_generate=512, **drafts)
    found = steady_state(scenario(), 1024.0, 512.0, 1.0, speculation=THREE)
    assert found.tpot == pytest.approx(static.decode_latency, rel=5e-3)
    assert found.tpot < 0.6 * float(steady_state(scenario(), 1024.0, 512.0, 1.0).tpot)


@pytest.mark.parametrize("runtime", ["vllm-v1", "sglang"])
@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_the_closed_form_agrees_with_the_simulation(concurrency: int, runtime: str) -> None:
    asked = scenario(runtime)
    inputs, outputs = uniform(1000.0, 0.3), uniform(400.0, 0.3)
    server = build_server(asked, 2000.0, 1200.0, speculation=THREE)
    requests = Workload(inputs, outputs).requests(40 * concurrency, float("inf"))
    simulated = summarize(server.run(requests, concurrency), steady=True)
    spread = outputs.spread
    found = steady_state(asked, 1000.0, 400.0, float(concurrency), output_spread=spread, speculation=THREE)
    assert found.tpot == pytest.approx(simulated.tpot.mean, rel=0.08)
    assert found.output_token_throughput == pytest.approx(simulated.output_token_throughput, rel=0.08)


def test_all_tokens_are_generated_whatever_is_accepted() -> None:
    requests = Workload(uniform(500.0, 0.5), uniform(100.0, 0.9)).requests(200, 20.0)
    for tokens in (1.0, 1.7, 4.0):
        run = build_server(scenario(), 1000.0, 600.0, speculation=Speculation(3, tokens)).run(requests)
        found = summarize(run)
        assert found.num_requests == 200
        assert found.total_output_tokens == sum(request.output_tokens for request in requests)


def test_more_accepted_tokens_never_lower_the_throughput() -> None:
    rates = [steady_state(scenario(), 1000.0, 400.0, 64.0, speculation=Speculation(3, a)) for a in (1.0, 2.0, 3.0, 4.0)]
    throughputs = [float(found.output_token_throughput) for found in rates]
    assert throughputs == sorted(throughputs)


def test_a_draft_model_takes_room_in_the_kv_cache() -> None:
    with_draft = scenario()
    without = with_draft._replace(draft=None)
    engine = engine_for("vllm-v1")
    sizes = [float(policy_of(engine, one, 2000.0).kv_tokens) for one in (with_draft, without)]
    assert 0.8 * sizes[1] < sizes[0] < sizes[1]


def test_both_commands_take_the_flags_of_infer(ask: Ask) -> None:
    lengths = ("--seq_len", "1024", "--num_tokens_to_generate", "512", "--max_concurrency", "8")
    steady = json.loads(ask("infer", *SERVER, *lengths, *FLAGS, "--format", "json").out)
    requests = ("--random_input_len", "1024", "--random_output_len", "512", "--max_concurrency", "8")
    answer = ask("load", *SERVER, *requests, "--num_prompts", "64", *FLAGS, "--format", "json")
    for found in (steady, json.loads(answer.out)):
        assert (found["draft_model_name"], found["num_draft_tokens"]) == ("llama-3.2-1b", 3)
        assert found["tokens_per_step"] == pytest.approx(THREE.tokens)
    text = ask("load", *SERVER, *requests, "--num_prompts", "64", *FLAGS).out
    assert "3 tokens drafted by llama-3.2-1b, 2.53 tokens per step" in text
    assert "3 tokens drafted by llama-3.2-1b, 2.53 tokens per step" in ask("infer", *SERVER, *lengths, *FLAGS).out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--num_draft_tokens", "3", "--acceptance_rate", "0.7"), "num_draft_tokens needs a draft model"),
        (FLAGS[:4], "give num_draft_tokens and acceptance_rate together"),
        (FLAGS[:2], "needs num_draft_tokens"),
        ((*FLAGS, "--pp_size", "2"), "a draft model needs pp_size 1"),
    ],
)
@pytest.mark.parametrize("command", [("load",), ("infer", "--max_concurrency", "8")])
def test_drafts_that_cannot_be_estimated_are_refused(
    ask: Ask, command: tuple[str, ...], flags: tuple[str, ...], said: str
) -> None:
    found = ask(*command, *SERVER, *flags)
    assert (found.status, found.out) == (1, "")
    assert said in found.err
    assert found.err.count("\n") == 1
