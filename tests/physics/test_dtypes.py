"""Names of number formats: bits, rates and combinations."""

import pytest

from llm_analysis.errors import BadValue
from llm_analysis.physics.dtypes import BITS, EVERYDAY, Dtypes, get_dtypes
from llm_analysis.physics.gguf import MIXES, Attention, attention_type, bits, down_type, has_more_bits


def bits_per_weight(dtypes: Dtypes) -> float:
    return dtypes.weight_bits + dtypes.scale_bits


@pytest.mark.parametrize(
    ("name", "width", "math"),
    [
        ("int4", 4.125, "half"),  # 16-bit scale per 128
        ("int4_g32", 4.5, "half"),
        ("int4_g64", 4.25, "half"),
        ("nf4", 4.5, "half"),  # 32-bit scale per 64
        ("nf4_double", 4.127, "half"),  # QLoRA: double quantization saves 0.373 bits per weight
        ("w4a8", 4.125, "int8"),
        ("w4afp8", 4.125, "fp8"),
        ("mxfp8", 8.25, "fp8"),
        ("mxfp4", 4.25, "fp4"),
        ("nvfp4", 4.5, "fp4"),
        ("w4a16_nvfp4", 4.5, "half"),
        ("bitnet", 2.0, "int8"),
        ("q4_0", 4.5, "half"),
        ("q8_0", 8.5, "half"),
        ("q6_k", 6.5625, "half"),
        ("iq4_xs", 4.25, "half"),
    ],
)
def test_bits_per_weight_and_rate(name: str, width: float, math: str) -> None:
    dtypes = get_dtypes(name)
    assert bits_per_weight(dtypes) == pytest.approx(width, abs=5e-4)
    assert dtypes.math == math


@pytest.mark.parametrize("name", EVERYDAY)
def test_every_named_format_is_consistent(name: str) -> None:
    dtypes = get_dtypes(name)
    assert dtypes.name == name
    assert dtypes.math in BITS
    assert dtypes.kv_bits == max(8, dtypes.activation_bits)
    assert bits_per_weight(dtypes) <= max(dtypes.embedding_bits, 16)


def test_capitals_and_other_spellings_are_accepted() -> None:
    assert get_dtypes("Q4_K_M") == get_dtypes("q4-k-m") == get_dtypes("q4_k_m")
    assert get_dtypes("bfloat16+MXFP4").routed == get_dtypes("bf16+mxfp4").routed


def test_parts_may_have_formats_of_their_own() -> None:
    mixed = get_dtypes("fp8+mlp:nvfp4+mxfp4+head:w4a16_nvfp4")
    assert mixed.name == "fp8+mlp:nvfp4+mxfp4+head:w4a16_nvfp4"
    assert [mixed.linear_of(part).format for part in ("attention", "state_space", "feed_forward", "expert")] == [
        "fp8",
        "fp8",
        "nvfp4",
        "mxfp4",
    ]
    assert mixed.head.weight_bytes == 4.5 / 8
    assert mixed.mlp is not None
    assert (mixed.mlp.weights, mixed.routed.weight_bytes) == ("nvfp4", 4.25 / 8)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("q4_k_s", "did you mean q4_k_m"),
        ("bf16+router:fp8", "none of mlp, experts, head"),
        ("w3a16", "3 bits is not one of"),
        ("int4_g0", "unknown dtype 'int4_g0'"),
        ("+", "unknown dtype ''"),
    ],
)
def test_unknown_names_are_rejected(name: str, complaint: str) -> None:
    with pytest.raises(BadValue) as refused:
        get_dtypes(name)
    assert complaint in str(refused.value)


def test_llama_cpp_gives_half_of_32_layers_more_bits() -> None:
    assert [i for i in range(32) if has_more_bits(i, 32)] == [0, 1, 2, 3, *range(6, 28, 3), 28, 29, 30, 31]


def test_types_of_single_tensors() -> None:
    mix, usual = MIXES["q4_k_m"], Attention(queries_per_kv_head=8)
    assert [attention_type(mix, tensor, 5, 32, usual) for tensor in ("query", "key", "value", "output")] == ["Q4_K"] * 4
    assert [attention_type(mix, "value", layer, 32, usual) for layer in (0, 6)] == ["Q6_K"] * 2
    assert attention_type(mix, "value", 11, 80, usual) == "Q5_K"
    assert attention_type(mix, "query", 5, 32, Attention(fused=True)) == "Q5_K"
    assert attention_type(mix, "key", 5, 32, Attention(num_experts=8)) == "Q8_0"
    assert [down_type(mix, layer, 32) for layer in (0, 4, 6)] == ["Q6_K", "Q4_K", "Q6_K"]
    assert [down_type(MIXES["iq4_xs"], layer, 32) for layer in (3, 4)] == ["Q5_K", "IQ4_XS"]


def test_rows_that_256_does_not_divide_get_a_type_with_small_blocks() -> None:
    assert [bits(kind, 896) for kind in ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q8_0")] == [5.5, 6.0, 8.5, 4.5, 8.5]
