"""Layouts: impossible sizes, and the numbering of GPUs over stages and nodes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, LLMAnalysisError, Parallelism, get_gpu, get_model
from llm_analysis.errors import BadValue
from llm_analysis.physics.operators import Step

Sizes = st.integers(1, 16)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tp_size": 0}, "tp_size must be greater than 0, not 0"),
        ({"tp_size": 1.5}, "tp_size must be a whole number, not 1.5"),
        ({"tp_size": "2"}, "tp_size must be a whole number, not '2'"),
        ({"dp_size": 10**10}, "dp_size must be less than or equal to 1000000000"),
        ({"expert_imbalance": 0.5}, "expert_imbalance must be greater than or equal to 1"),
        ({"tpsize": 2}, "unknown key 'tpsize'; did you mean tp_size"),
        ({"zzz": 2, "tpsize": 2}, "unknown keys 'zzz', 'tpsize'"),
    ],
    ids=str,
)
def test_a_wrong_size_raises_an_error_of_the_package(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        Parallelism(**sizes)


@pytest.mark.parametrize("part", ["dtype_config", "parallelism_config", "runtime", "draft_config"])
def test_a_name_in_place_of_a_part_raises_an_error_of_the_package(part: str) -> None:
    arguments: dict[str, Any] = {part: "bf16"}
    with pytest.raises(LLMAnalysisError, match=r"must be a value that .* returns, not 'bf16'"):
        LLMAnalysis(get_model("test-13b"), get_gpu("t4"), **arguments)


@pytest.mark.parametrize("cost", [1e308, -1.0, float("nan"), True])
def test_a_cost_out_of_range_raises_an_error_of_the_package(cost: float) -> None:
    with pytest.raises(LLMAnalysisError, match="cost_per_gpu_hour"):
        LLMAnalysis(get_model("test-13b"), get_gpu("t4"), method="ideal").inference(cost_per_gpu_hour=cost)


@given(layers=st.integers(1, 200), stages=Sizes)
def test_the_stages_cover_every_layer_once(layers: int, stages: int) -> None:
    parts = Parallelism(pp_size=stages).stages(layers)
    assert [layer for first, end in parts for layer in range(first, end)] == list(range(layers))
    assert max(end - first for first, end in parts) - min(end - first for first, end in parts) <= 1


@given(tp=Sizes, cp=Sizes, pp=Sizes, node=st.integers(1, 64))
def test_every_stage_but_the_last_sends_once(tp: int, cp: int, pp: int, node: int) -> None:
    spans = Parallelism(tp_size=tp, cp_size=cp, pp_size=pp, num_gpus_per_node=node).send_spans
    assert sum(spans.values()) == pp - 1
    if tp * cp * pp <= node:
        assert all(span <= node for span in spans)


@given(cp=Sizes, tokens=st.floats(16, 1e5), context=st.floats(0, 1e5))
def test_a_context_parallel_rank_has_its_share_of_the_tokens(cp: int, tokens: float, context: float) -> None:
    step = Step(4.0, tokens, context)
    share = Parallelism(cp_size=cp).share(step)
    assert share.new_tokens == pytest.approx(tokens / cp)
    assert share.total == pytest.approx(step.total)
