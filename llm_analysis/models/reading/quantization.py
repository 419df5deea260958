"""Read the number format of a quantized checkpoint from its `quantization_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# Methods that name the format themselves.
METHODS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "eetq": "w8a16",
    "finegrained_fp8": "fp8",
}
# NVIDIA ModelOpt's names of algorithms.
ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT8_SQ": "int8",
    "W8A16": "w8a16",
    "MXFP4": "mxfp4",
}


class Weights(NamedTuple):
    """How a checkpoint holds its weights."""

    format: str = ""  # everyday dtype name; empty: as the user asks
    part: str = "all"  # all | experts
    note: str = ""


def weights_of(raw: Mapping[str, Any]) -> Weights:
    """The format of a parsed config.json's weights; empty where it is not quantised."""
    found: Any = raw.get("quantization_config") or raw.get("compression_config")
    if not isinstance(found, Mapping):
        if raw.get("use_fp8_e4m3") is True:
            return Weights("fp8")
        return Weights()
    name, method = format_of(found), str(found.get("quant_method", "")) or "unnamed"
    if not name:
        bits = whole(found.get("bits")) or whole(found.get("w_bit"))
        kind = f"{method!r}" + (f" of {bits} bits" if bits else "")
        return Weights(note=f"quantization {kind} is not one we know: weights take dtype_name, 16 bits without it")
    if attention_left_alone(found.get("modules_to_not_convert") or found.get("ignore")):
        return Weights(name, "experts", f"{name} checkpoint: only the experts' weights are quantised")
    return Weights(name)


def attention_left_alone(modules: Any) -> bool:
    """Whether a list of modules that stay as they are names the attention of all layers, by a wildcard."""
    names = modules if isinstance(modules, list) else []
    return any("self_attn" in str(name) and "*" in str(name) for name in names)


def format_of(config: Mapping[str, Any]) -> str:
    """The everyday dtype name of a `quantization_config`, or "" where it is of no kind we know."""
    method = str(config.get("quant_method", "")).lower().replace("_", "-")
    if method in ("awq", "gptq", "auto-round", "gptq-marlin", "awq-marlin", "hqq"):
        return {4: "int4", 8: "w8a16"}.get(whole(config.get("bits", config.get("w_bit", 4))), "")
    if method.startswith("bitsandbytes") or "load_in_4bit" in config or "load_in_8bit" in config:
        return "int4" if config.get("load_in_4bit") or config.get("_load_in_4bit") else "int8"
    algorithm = config.get("quant_algo") or nested(config, "quantization", "quant_algo")
    if algorithm:
        return ALGORITHMS.get(str(algorithm).upper(), "")
    groups = config.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        return group_format(next(iter(groups.values())))
    if method == "quark":
        kind = str(nested(config, "global_quant_config", "weight", "dtype"))
        return {"fp8_e4m3": "fp8", "fp4": "mxfp4", "int8": "int8", "int4": "int4"}.get(kind, "")
    name = METHODS.get(method.replace("-", "_"), "")
    return "fp8_block" if name == "fp8" and config.get("weight_block_size") else name


def group_format(group: Any) -> str:
    """The everyday dtype name of one group of a compressed-tensors checkpoint: weights' bits, kind and group size."""
    weights = nested(group, "weights")
    bits, kind = whole(nested(weights, "num_bits")), str(nested(weights, "type"))
    if kind == "float":
        return {8: "fp8", 4: "nvfp4" if whole(nested(weights, "group_size")) == 16 else "mxfp4"}.get(bits, "")
    activations = whole(nested(group, "input_activations", "num_bits")) or 16
    return {(4, 16): "int4", (8, 8): "int8", (8, 16): "w8a16", (4, 8): "w4a8"}.get((bits, activations), "")


def nested(value: Any, *keys: str) -> Any:
    """What lies under `keys`, one inside the other; None where the path ends."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def whole(value: Any) -> int:
    """`value` if it is a whole number, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
