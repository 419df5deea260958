"""Operators: the record of a pass, and products that read some of the matrices they hold."""

import pickle

import pytest

from llm_analysis.errors import BadValue
from llm_analysis.physics.operators import MatmulFormat, Step, matmul

BF16 = MatmulFormat("bf16", "bf16", 2.0, 2.0, 2.0)


@pytest.mark.parametrize("phase", ["dekode", "", "Prefill", None])
def test_a_step_has_one_of_two_phases(phase: str) -> None:
    with pytest.raises(BadValue, match="phase must be prefill or decode"):
        Step(64, 1, 8192, phase)


def test_a_step_is_copied_and_pickled_with_its_phase() -> None:
    step = Step(64.0, 1.0, 8192.0, "decode")
    assert step._replace(batch=1.0) == Step(1.0, 1.0, 8192.0, "decode")
    assert pickle.loads(pickle.dumps(step)) == step


def test_a_product_reads_each_matrix_once_and_stores_those_it_holds() -> None:
    """3 of 8 experts of 10 x 20 get 7 rows: 2 x 7 x 200 FLOP, 3 x 200 and 8 x 200 weights of 2 bytes."""
    op = matmul("experts", 7.0, 10, 20, BF16, kind="grouped_gemm", part="expert", read=3.0, held=8.0, params=1600.0)
    assert (op.flops, op.weight_bytes, op.stored_bytes) == (2800.0, 1200.0, 3200.0)
    assert op.activation_bytes == 7 * (10 + 20) * 2
    plain = matmul("gemm", 7.0, 10, 20, BF16)
    assert (plain.flops, plain.weight_bytes, plain.stored_bytes, plain.params) == (2800.0, 400.0, 400.0, 200)
