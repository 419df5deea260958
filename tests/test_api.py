"""The Python API: functions from names and keywords, their reprs, and the examples in docstrings."""

import doctest
from copy import copy

import numpy as np
import pytest
from conftest import Ask

import llm_analysis
from llm_analysis import api, estimate, plan, sweep
from llm_analysis.cli.commands.infer import infer
from llm_analysis.cli.commands.plan import plan as plan_command
from llm_analysis.cli.flags import flags_of
from llm_analysis.errors import BadValue
from llm_analysis.explore.plan_flags import DEFAULTS


def test_the_examples_in_docstrings_are_true() -> None:
    found = doctest.testmod(api)
    assert found.attempted >= 10
    assert found.failed == 0


def test_estimate_gives_the_answer_of_infer(ask: Ask) -> None:
    answer = estimate("llama-3.1-8b", "h100-sxm-80gb", tp_size=2, batch_size_per_gpu=4)
    names = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb")
    assert repr(answer) == ask("infer", *names, "--tp_size", "2", "--batch_size_per_gpu", "4").out.strip()
    assert answer._repr_html_().startswith("<pre>llama-3.1-8b")


def test_estimate_takes_arrays_and_refuses_lists() -> None:
    answer = estimate("llama-3.1-8b", "h100-sxm-80gb", batch_size_per_gpu=np.array([1, 4]))
    assert answer.decode_latency.shape == (2,)
    assert "arrays of shape (2,)" in repr(answer)
    with pytest.raises(BadValue, match="sweep takes lists"):
        estimate("llama-3.1-8b", "h100-sxm-80gb", batch_size_per_gpu=[1, 4])


def test_unknown_keywords_are_named_with_the_nearest() -> None:
    for call in (
        lambda: estimate("llama-3.1-8b", "t4", batch_size=4),
        lambda: sweep("llama-3.1-8b", "t4", batch_size=4),
    ):
        with pytest.raises(BadValue, match="unknown keyword batch_size; did you mean batch_size_per_gpu"):
            call()
    with pytest.raises(BadValue, match="unknown keyword max_tpott; did you mean max_tpot"):
        plan("llama-3.1-8b", "t4", request_rate=1, max_tpott="20ms")


@pytest.mark.parametrize(("alias", "name"), [("tp", "tp_size"), ("max_new_tokens", "num_tokens_to_generate")])
def test_a_flag_of_another_program_is_named_in_ours(alias: str, name: str) -> None:
    with pytest.raises(BadValue, match=f"unknown keyword {alias}; did you mean {name}"):
        estimate("llama-3.1-8b", "h100-sxm-80gb", **{alias: 2})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ttft", "an estimate has no ttft; it is called prefill_latency"),
        ("tpot", "it is called decode_latency"),
        ("prefil_latency", "did you mean prefill_latency"),
    ],
)
def test_a_field_that_is_missing_is_named_with_the_right_one(name: str, hint: str) -> None:
    answer = estimate("llama-3.1-8b", "h100-sxm-80gb")
    with pytest.raises(AttributeError, match=hint):
        getattr(answer, name)
    assert not hasattr(answer, "_repr_png_")
    assert copy(answer) == answer


def test_keywords_are_the_flags_of_the_commands() -> None:
    files = {
        "format",
        "log_level",
        "output_dir",
        "output_file_prefix",
        "output_file_suffix",
        "must_fit",
        "full",
        "max_concurrency",
    }
    known = set(api._flags()) | {"model_name", "gpu_name"}
    assert known <= set(flags_of(infer))
    assert {name for name, flag in flags_of(infer).items() if flag.flag.group != "Output"} - files <= known
    assert {name: flag.default for name, flag in flags_of(plan_command).items() if name in DEFAULTS} == DEFAULTS


def test_a_sweep_prints_as_a_table_of_what_varies() -> None:
    rows = sweep("llama-3.1-8b", "h100-sxm-80gb", batch_size_per_gpu="1:64", tp_size=[1, 2])
    lines = repr(rows).splitlines()
    assert lines[0].split()[:2] == ["batch", "tp_size"]
    assert lines[-1] == "14 points"
    assert "<table>" in rows._repr_html_()
    assert repr(rows.where("batch>1000")) == "14 points, 0 shown"
    assert dict(rows).keys() == set(rows)
    assert isinstance(rows.sort("tpot"), type(rows))


def test_a_plan_prints_as_the_command_does() -> None:
    found = plan("llama-3.1-8b", ["l40s-48gb"], request_rate=1, max_tpot="50ms", prices={"l40s-48gb": 1.0})
    assert repr(found).startswith("llama-3.1-8b: 512 tokens in, 32 out, 1 requests/s; within TPOT 50.00 ms")
    assert found._repr_html_().startswith("<pre>")
    assert found.best is not None
    assert found.best.cost_per_hour == found.best.num_gpus
    assert found.front[0]["gpu_name"] == "l40s-48gb"
    assert set(found.commands) == {"vllm", "sglang", "trtllm"}


def test_the_functions_are_public_names() -> None:
    assert {"estimate", "sweep", "plan"} <= set(llm_analysis.__all__)
