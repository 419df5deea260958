"""Lists and ranges of flag values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis.errors import BadValue
from llm_analysis.explore.ranges import values_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", (7,)),
        ("1,2,4", (1, 2, 4)),
        (" 1, 2 ,4 ", (1, 2, 4)),
        ("1:16", (1, 2, 4, 8, 16)),
        ("1:20", (1, 2, 4, 8, 16)),
        ("3:12", (3, 6, 12)),
        ("512:2048:512", (512, 1024, 1536, 2048)),
        ("1:64:*4", (1, 4, 16, 64)),
        ("0:1:0.25", (0, 0.25, 0.5, 0.75, 1)),
        ("1:4,6,8", (1, 2, 4, 6, 8)),
        ("1e3,2e3", (1000, 2000)),
        ("True,False", (True, False)),
        ("None,8", (None, 8)),
        ("5:5", (5,)),
    ],
)
def test_a_list_or_range_gives_its_values(text: str, expected: tuple[object, ...]) -> None:
    assert values_of("batch_size_per_gpu", text) == expected


def test_names_keep_their_colons() -> None:
    assert values_of("model_name", "llama-2-7b, a:b", text=True) == ("llama-2-7b", "a:b")


def test_python_sequences_and_single_values_are_accepted() -> None:
    assert values_of("tp_size", [1, 2, "4:8"]) == (1, 2, 4, 8)
    assert values_of("tp_size", range(1, 4)) == (1, 2, 3)
    assert values_of("tp_size", 4) == (4,)
    assert values_of("dtype_name", None) == (None,)


def test_repeated_values_count_once() -> None:
    assert values_of("tp_size", "1,2,1:4") == (1, 2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8:1", "batch_size_per_gpu 8:1 is empty: the end 1 is below the start 8; write 1:8"),
        ("1,,2", "batch_size_per_gpu has an empty entry in its list"),
        ("", "batch_size_per_gpu has an empty entry in its list"),
        ("1:2:3:4", "batch_size_per_gpu '1:2:3:4' is not a range; write 1:256, 512:8192:512 or 1:4096:*2"),
        ("a:8", "batch_size_per_gpu 'a:8' is not a range; write 1:256, 512:8192:512 or 1:4096:*2"),
        ("1:8:*1", "batch_size_per_gpu 1:8:*1: the factor must be above 1"),
        ("0:8", "batch_size_per_gpu 0:8: a range by factors must start above 0"),
        ("1:8:0", "batch_size_per_gpu 1:8:0: the step must be above 0"),
        ("1:8:-2", "batch_size_per_gpu 1:8:-2: the step must be above 0"),
        ("1:1e9:1", "batch_size_per_gpu 1:1e9:1 has more than 1,000,000 values"),
    ],
)
def test_a_bad_range_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(BadValue) as error:
        values_of("batch_size_per_gpu", text)
    assert str(error.value) == message


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(BadValue, match="tp_size has no value"):
        values_of("tp_size", [])


@given(st.integers(1, 1000), st.integers(0, 2000), st.integers(1, 300))
def test_a_step_range_is_what_python_ranges_give(start: int, length: int, step: int) -> None:
    end = start + length
    assert values_of("seq_len", f"{start}:{end}:{step}") == tuple(range(start, end + 1, step))


@given(st.integers(1, 50), st.integers(0, 12), st.integers(2, 5))
def test_a_factor_range_includes_an_end_that_it_reaches(start: int, powers: int, factor: int) -> None:
    end = start * factor**powers
    assert values_of("seq_len", f"{start}:{end}:*{factor}") == tuple(start * factor**i for i in range(powers + 1))


def test_brackets_around_a_list_are_ignored() -> None:
    assert values_of("tp_size", "[1,2,4]") == values_of("tp_size", "(1,2,4)") == (1, 2, 4)
