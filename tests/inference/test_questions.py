"""Random valid questions obey the laws of `questions`; `.ci/run` asks more of them."""

import random
from collections import Counter

import pytest
from conftest import Ask
from questions import Laws, Question, broken, command_line, questions

QUESTIONS = 20  # in each of the parts, which pytest-xdist spreads over processes


@pytest.mark.parametrize("seed", range(2))
def test_random_questions_break_no_law(ask: Ask, seed: int) -> None:
    counts = Counter[str]()
    for index, question in enumerate(questions(seed, QUESTIONS)):
        problems = broken(question, ask, f"laws {seed} {index}", counts)
        assert not problems, " ".join(command_line(question.flags))
    assert counts.total() > 40 * QUESTIONS


def test_a_wrong_answer_breaks_a_law(ask: Ask) -> None:
    """A missing operator and a method that is faster than light both break a law."""
    question: Question = next(questions(0, 1))
    laws = Laws(question, ask, random.Random(0))
    laws.e = laws.e._replace(prefill_latency=laws.e.prefill_latency / 1000)
    failed = {name for part in (laws.sums, laws.bounds) for name, holds, _ in part() if not holds}
    assert {"operators of prefill add up", "the prefill is not faster than the peak"} <= failed
