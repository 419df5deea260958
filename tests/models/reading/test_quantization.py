"""Formats of quantized checkpoints, from small configurations written for the tests."""

from typing import Any

import pytest

from llm_analysis.models.reading.quantization import SIXTEEN, weights_of

LAYERS = 40


def formats(config: dict[str, Any], experts: int = 0) -> str:
    return weights_of({"quantization_config": config}, LAYERS, experts).format


QUANTIZED: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
    ({"quant_method": "fp8"}, "fp8"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4_g32"),
    ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4"),
    ({"quant_method": "gptq", "bits": 8}, "w8a16"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4_double"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
    ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, "fp8"),
    ({"quantization": {"quant_algo": "W4A8_AWQ"}}, "w4afp8"),
    ({"quant_method": "bitnet"}, "bitnet"),
    ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, "mxfp4"),
    ({"quant_method": "some-new-method"}, ""),
]


@pytest.mark.parametrize(("config", "name"), QUANTIZED)
def test_one_format_for_all_layers(config: dict[str, Any], name: str) -> None:
    weights = weights_of({"quantization_config": config}, LAYERS, 0)
    assert weights.format == name
    assert bool(weights.note) == (not name)


def group(bits: int, kind: str, size: int | None, activations: int | None, activation_type: str = "") -> dict[str, Any]:
    inputs = {"num_bits": activations, "type": activation_type or kind} if activations else None
    return {"weights": {"num_bits": bits, "type": kind, "group_size": size}, "input_activations": inputs}


@pytest.mark.parametrize(
    ("group_0", "name"),
    [
        (group(8, "float", None, 8), "fp8"),
        (group(4, "int", 128, None), "int4"),
        (group(4, "int", 32, None), "int4_g32"),
        (group(8, "int", None, 8), "int8"),
        (group(8, "int", None, None), "w8a16"),
        (group(4, "int", 128, 8), "w4a8"),
        (group(4, "int", 128, 8, "float"), "w4afp8"),
        (group(4, "float", 16, 4), "nvfp4"),
        (group(4, "float", 16, None), "w4a16_nvfp4"),
        (group(4, "float", 32, 4), "mxfp4"),
    ],
)
def test_a_group_of_compressed_tensors(group_0: dict[str, Any], name: str) -> None:
    assert formats({"quant_method": "compressed-tensors", "config_groups": {"group_0": group_0}}) == name


EVERY_LAYER = range(LAYERS)
IGNORED: list[tuple[list[str], str]] = [
    (["model.layers.*.self_attn", "lm_head"], f"{SIXTEEN}+mlp:mxfp4+mxfp4"),
    (["re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|down)_proj.*"], f"{SIXTEEN}+mxfp4"),
    ([f"model.layers.{i}.self_attn*" for i in EVERY_LAYER], f"{SIXTEEN}+mlp:mxfp4+mxfp4"),
    ([f"model.layers.{i}.mlp.shared_expert*" for i in EVERY_LAYER], f"mxfp4+mlp:{SIXTEEN}"),
    ([f"model.layers.{i}.mlp.gate" for i in EVERY_LAYER], "mxfp4"),  # routers stay in 16 bits anyway
    ([f"model.layers.{i}.self_attn.kv_a_layernorm" for i in EVERY_LAYER], "mxfp4"),
    ([f"model.layers.{i}.self_attn" for i in range(3)], "mxfp4"),  # most layers count
    (["*.mixer.out_proj", "lm_head"], f"{SIXTEEN}+mlp:mxfp4+mxfp4"),
]


@pytest.mark.parametrize(("modules", "name"), IGNORED)
def test_modules_that_stay_in_16_bits(modules: list[str], name: str) -> None:
    assert formats({"quant_method": "mxfp4", "modules_to_not_convert": modules}, experts=64) == name


@pytest.mark.parametrize(
    ("cache", "base"),
    [
        ({"kv_cache_quant_algo": "FP8"}, f"{SIXTEEN}kv8"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, f"{SIXTEEN}kv8"),
        ({"kv_cache_quant_algo": None}, SIXTEEN),
    ],
)
def test_a_checkpoint_made_for_an_8_bit_cache(cache: dict[str, Any], base: str) -> None:
    config = {"quant_algo": "NVFP4", "exclude_modules": ["*self_attn*"]} | cache
    assert formats(config, experts=64) == f"{base}+mlp:nvfp4+nvfp4"


def test_a_part_that_the_model_lacks_has_no_format() -> None:
    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    assert weights_of({"quantization_config": config}, LAYERS, 64, mlp=False).format == f"{SIXTEEN}+mxfp4"


def test_mixed_precision_lists_the_format_of_each_module() -> None:
    layers = {}
    for i in EVERY_LAYER:
        layers[f"model.language_model.layers.{i}.linear_attn.out_proj"] = {"quant_algo": "FP8"}
        layers[f"model.language_model.layers.{i}.mlp.experts.0.down_proj"] = {"quant_algo": "NVFP4"}
    config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    mixed = config | {"quantized_layers": layers | {"lm_head": {"quant_algo": "W4A16_NVFP4"}}}
    weights = weights_of({"quantization_config": mixed}, LAYERS, 64)
    assert weights.format == f"fp8+mlp:{SIXTEEN}+nvfp4+head:w4a16_nvfp4"
    assert weights.note == "quantized checkpoint: attention fp8, mlp 16 bits, experts nvfp4, output head w4a16_nvfp4"


def test_mixed_precision_on_top_of_fp8_keeps_fp8_elsewhere() -> None:
    layers = {f"layers.{i}.ffn.experts": {"quant_algo": "NVFP4"} for i in EVERY_LAYER}
    config = {"quant_method": "fp8", "weight_block_size": [128, 128], "quant_algo": "MIXED_PRECISION"}
    assert formats(config | {"quantized_layers": layers, "ignore": ["*.attn.*"]}, experts=8) == "fp8_block+nvfp4"


def test_layers_for_multi_token_prediction_may_keep_another_format() -> None:
    nvfp4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    over_fp8 = fp8 | {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"layers.0.ffn.experts": {}}}
    for config, expected in (
        (nvfp4, "nvfp4"),
        (nvfp4 | {"ignore": ["mtp*"]}, SIXTEEN),
        (nvfp4 | {"exclude_modules": [f"model.layers.{LAYERS}*"]}, SIXTEEN),
        (fp8 | {"modules_to_not_convert": [f"model.layers.{LAYERS}.eh_proj"]}, "fp8_block"),
        (over_fp8 | {"ignore": ["mtp.*"]}, "fp8_block"),
    ):
        assert weights_of({"quantization_config": config}, LAYERS, 64).prediction == expected, config


def test_a_regular_expression_that_could_take_forever_is_not_tried() -> None:
    slow = ["re:(model|m|o)*(.*)*(.*)*x", "re:((((", "re:" + "a" * 10_000]
    assert formats({"quant_method": "fp8", "ignore": slow}) == "fp8"
