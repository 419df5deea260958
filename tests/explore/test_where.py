"""Conditions on the columns of a sweep."""

import numpy as np
import pytest

from llm_analysis.errors import BadValue, LLMAnalysisError, UnknownName
from llm_analysis.explore.where import Condition, column_named, parse_where
from llm_analysis.inference.estimate import KEYS

COLUMNS = KEYS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tpot<20ms", Condition("decode_latency", "<", 0.02)),
        ("ttft <= 1 s", Condition("prefill_latency", "<=", 1.0)),
        ("decode_latency>1500us", Condition("decode_latency", ">", 0.0015)),
        ("fits=1", Condition("fits", "=", 1.0)),
        ("fits==true", Condition("fits", "=", 1.0)),
        ("memory_left_per_gpu>=2.5GB", Condition("memory_left_per_gpu", ">=", 2.5e9)),
        ("kv_cache_memory_per_gpu<1gib", Condition("kv_cache_memory_per_gpu", "<", 2.0**30)),
        ("gpu_name!=t4", Condition("gpu_name", "!=", "t4")),
        ("gpu = 'h100-sxm-80gb'", Condition("gpu_name", "=", "h100-sxm-80gb")),
        ("batch>1,000", Condition("batch_size_per_gpu", ">", 1000.0)),
        ("total_tokens_per_sec>1e4", Condition("total_tokens_per_sec", ">", 1e4)),
    ],
)
def test_a_condition_is_a_column_an_operator_and_a_value_in_si_units(text: str, expected: Condition) -> None:
    assert parse_where(text, COLUMNS) == [expected]


def test_conditions_are_joined_by_and() -> None:
    found = parse_where("tpot<20ms and fits=1 AND ttft<1s", COLUMNS)
    assert [c.column for c in found] == ["decode_latency", "fits", "prefill_latency"]


def test_twenty_milliseconds_are_exactly_the_float_of_0_02() -> None:
    assert [parse_where(f"tpot<{ms}ms", COLUMNS)[0].value for ms in (20, 0.3, 7)] == [0.02, 0.0003, 0.007]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpott<20ms", "unknown column 'tpott'; did you mean tpot?"),
        ("decode_latancy<1", "unknown column 'decode_latancy'; did you mean decode_latency"),
        ("tpot<20GB", "where: tpot: unknown unit 'GB'; use s, ms, us"),
        ("batch<20ms", "where: batch: unknown unit 'ms'; give the number alone"),
        ("tpot", "is not a condition; write column<number"),
        ("tpot<30", "has no unit; write tpot<30ms or 30s"),
        ("tpot<", "is not a condition; write column<number"),
        ("tpot<20ms or fits=1", "is not a condition; write column<number"),
        ("", "is not a condition; write column<number"),
        ("total_latency_is>=1ms", "compares total_latency_is, which is text; use = or !="),
        ("tpot<fast", "compares decode_latency with 'fast', which is not a number"),
        ("__import__('os').system('ls')", "is not a condition; write column<number"),
    ],
)
def test_a_bad_condition_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(LLMAnalysisError) as error:
        parse_where(text, COLUMNS)
    assert message in str(error.value)
    assert isinstance(error.value, (BadValue, UnknownName))


def test_a_condition_holds_element_by_element() -> None:
    times = np.array([0.01, 0.02, 0.03])
    assert Condition("decode_latency", "<", 0.02).holds(times).tolist() == [True, False, False]
    assert Condition("decode_latency", "!=", 0.02).holds(times).tolist() == [True, False, True]
    names = np.array(["a", "b"])
    assert Condition("gpu_name", "=", "a").holds(names).tolist() == [True, False]


def test_the_headings_of_the_table_name_columns() -> None:
    assert column_named("tokens/s", ["total_tokens_per_sec"]) == "total_tokens_per_sec"
    assert column_named("TPOT ms", ["decode_latency"]) == "decode_latency"
    assert column_named("left GB", ["memory_left_per_gpu"]) == "memory_left_per_gpu"
    assert [c.column for c in parse_where("tokens/s>200", ["total_tokens_per_sec"])] == ["total_tokens_per_sec"]
