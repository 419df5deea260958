"""Read the number formats of a quantized checkpoint: its `quantization_config`, or ModelOpt's hf_quant_config.json.

A checkpoint may hold attention, feed-forwards, experts and output head in different formats. The lists of modules that
a file quantizes or leaves alone are tried on typical module names of a few layers in the middle of the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from llm_analysis.errors import shown
from llm_analysis.physics.dtypes import DEFAULT_DTYPE

# Keys of a config.json that describe the weights of a checkpoint.
QUANTIZATION_KEYS = ("quantization_config", "compression_config", "use_fp8_e4m3")
# Names of quantization methods that name the format.
_METHODS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "finegrained_fp8": "fp8",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "eetq": "w8a16",
    "bitnet": "bitnet",
}
# Names of algorithms of NVIDIA ModelOpt.
_ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "w4a16_nvfp4",
    "W4A16_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W4A8_AWQ": "w4afp8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT8_SQ": "int8",
    "W8A16": "w8a16",
    "MXFP4": "mxfp4",
    "MXFP8": "mxfp8",
}
_GROUP = 128  # the default number of int4 weights that share a scale
SIXTEEN = DEFAULT_DTYPE  # the format of modules that stay in 16 bits

# Parts of a model, and the ends of the names of typical modules of each part.
_PARTS: dict[str, tuple[str, ...]] = {
    "attention": (
        *("self_attn.o_proj", "linear_attn.out_proj", "attn.o_proj", "attn.wo_b", "mixer.o_proj", "mixer.out_proj"),
        *("attention.wo", "attention.o_proj", "mamba.out_proj"),
    ),
    "mlp": (
        *("mlp.down_proj", "mlp.shared_expert.down_proj", "mlp.shared_experts.down_proj", "ffn.shared_experts.w2"),
        *("mixer.down_proj", "mixer.shared_experts.down_proj", "feed_forward.down_proj", "feed_forward.w2"),
        *("feed_forward.shared_expert.down_proj", "block_sparse_moe.shared_experts.down_proj"),
    ),
    "experts": (
        *("mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2", "mixer.experts.0.down_proj"),
        *("ffn.experts.0.w2", "feed_forward.experts.0.down_proj", "moe.experts.0.down_proj"),
    ),
}
_PREFIXES = ("model.", "", "model.language_model.", "language_model.model.", "backbone.")
_WINDOW = 8  # layers whose modules are tried: enough for one period of every known pattern of layers


class Weights(NamedTuple):
    """How a checkpoint holds its weights."""

    format: str = ""  # name of formats (see physics.dtypes); empty: those that the user asks for
    note: str = ""
    prediction: str = ""  # formats of the layers for multi-token prediction


def weights_of(raw: Mapping[str, Any], layers: int, experts: int, mlp: bool = True) -> Weights:
    """Return the formats of the weights of a parsed config.json; empty if it is not quantized.

    `experts`: number of routed experts; `mlp`: whether the model has dense or shared feed-forwards.
    """
    found: Any = raw.get("quantization_config") or raw.get("compression_config")
    if not isinstance(found, Mapping):
        own = "fp8" if raw.get("use_fp8_e4m3") is True else ""
        return Weights(own, prediction=own)
    config = dict(found)
    if isinstance(config.get("quantization"), Mapping):  # hf_quant_config.json
        config |= config["quantization"]
    formats = Formats(config)
    if formats.unknown:
        return Weights(note=formats.unknown)
    parts = {part: formats.of_part(ends, layers) or SIXTEEN for part, ends in _PARTS.items()}
    parts = {part: own for part, own in parts.items() if {"experts": bool(experts), "mlp": mlp}.get(part, True)}
    head, base = formats.of_head(), parts["attention"]
    labels = {"mlp": "+mlp:", "experts": "+"}
    others = [f"{labels[part]}{own}" for part, own in parts.items() if own != base]
    others += [f"+head:{head}"] if head != SIXTEEN else []
    narrow = _narrow_cache(config)
    base, cache = (f"{SIXTEEN}kv8", "") if narrow and base == SIXTEEN else (base, "+kv:fp8" if narrow else "")
    whole = base + "".join(others) + cache
    prediction = formats.of_prediction(layers) or whole
    if not others:
        return Weights("" if base == SIXTEEN else whole, prediction=prediction)
    described = ", ".join(f"{part} {_in_words(own)}" for part, own in (*parts.items(), ("output head", head)))
    return Weights(whole, f"quantized checkpoint: {described}", prediction)


def _narrow_cache(config: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint is made for an 8-bit KV cache."""
    algorithm = config.get("kv_cache_quant_algo") or config.get("kv_cache_scheme")
    return "FP8" in str(algorithm).upper() or _whole(_nested(algorithm, "num_bits")) == 8


def _in_words(format: str) -> str:
    """Return the name of a format for a note."""
    return "16 bits" if format == SIXTEEN else format


class Formats:
    """Formats of the modules of a checkpoint, by the lists in its configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.default = _default_format(config)
        mixed = str(config.get("quant_algo", "")).upper() == "MIXED_PRECISION"
        self._own = _Modules(_module_formats(config))
        ignored = _ignored_modules(config)
        # A mixed checkpoint of a quantized one: the modules that its second format leaves alone keep the first.
        self._ignored = _Modules([] if mixed and self.default else [(name, SIXTEEN) for name in ignored])
        self._left_alone = _Modules((name, self.default if mixed and self.default else SIXTEEN) for name in ignored)
        self.unknown = ""
        if not self.default and not self._own:
            method = str(config.get("quant_method", "")) or "unnamed"
            width = _whole(config.get("bits")) or _whole(config.get("w_bit"))
            kind = shown(method) + (f" of {width} bits" if width else "")
            self.unknown = f"quantization {kind} is unknown: the weights take the format of dtype_name, else 16 bits"

    def of_part(self, ends: Iterable[str], layers: int) -> str:
        """Return the format that most layers in the middle of the model have in a part."""
        first = max(layers // 2 - _WINDOW // 2, 0)
        by_layer = [self._of_layer(layer, ends) for layer in range(first, first + _WINDOW)]
        counted = Counter(format for format in by_layer if format is not None)
        return counted.most_common(1)[0][0] if counted else self.default

    def _of_layer(self, layer: int, ends: Iterable[str]) -> str | None:
        """Return the format of a part in a layer; None if no list names one of its modules."""
        names = [f"{prefix}layers.{layer}.{end}" for end in ends for prefix in _PREFIXES]
        return self._own.of_any(names, layer) or self._ignored.of_any(names, layer)

    def of_prediction(self, layers: int) -> str | None:
        """Return the format of the layers for multi-token prediction if it differs from the other layers.

        Their modules are named `mtp`, or like those of a layer after the last.
        """
        ends = [end for parts in _PARTS.values() for end in parts]
        names = [f"{prefix}{end}" for end in ends for prefix in ("mtp.layers.0.", f"model.layers.{layers}.")]
        return self._left_alone.of_any(names, layers)

    def of_head(self) -> str:
        """Return the format of the output head: 16 bits unless a list names it."""
        return self._own.of_any(["lm_head", "head"], None) or SIXTEEN


class _Modules:
    """A list of modules with the format of each: plain names, names with wildcards, regular expressions."""

    def __init__(self, listed: Iterable[tuple[str, str]]) -> None:
        self._plain: dict[str, str] = {}
        self._patterns: list[tuple[Callable[[str], bool], str, int | None]] = []
        for name, format in listed:
            if name.startswith("re:"):
                self._patterns.append((_expression(name[3:]), format, None))
            elif "*" in name:
                number = re.search(r"layers\.(\d{1,6})(?![\d*])", name)
                matches = partial(_matches, f"{name.removesuffix('*')}*")
                self._patterns.append((matches, format, int(number[1]) if number else None))
            else:
                self._plain[name] = format

    def __bool__(self) -> bool:
        return bool(self._plain or self._patterns)

    def of_any(self, names: Iterable[str], layer: int | None) -> str | None:
        """Return the format of the first of these modules of a layer that the list covers; None if there is none."""
        near = [(covers, format) for covers, format, own in self._patterns if own is None or own == layer]
        for name in names:
            parents = name.split(".")
            for end in range(len(parents), 0, -1):
                if (format := self._plain.get(".".join(parents[:end]))) is not None:
                    return format
            for covers, format in near:
                if covers(name):
                    return format
        return None


def _matches(pattern: str, name: str) -> bool:
    """Return whether a name matches a pattern with wildcards."""
    return fnmatchcase(name, pattern)


def _expression(text: str) -> Callable[[str], bool]:
    """Return a test of names against a regular expression; it fails for one that could take long to match."""
    few = len(text) <= 200 and len(re.findall(r"[*+{]", text)) <= 3 and not re.search(r"\)[*+?{]", text)
    try:
        compiled = re.compile(text) if few else None
    except (re.error, OverflowError, RecursionError):
        compiled = None
    return lambda name: compiled is not None and compiled.match(name) is not None


def _ignored_modules(config: Mapping[str, Any]) -> list[str]:
    """Return the modules that the checkpoint's format leaves alone."""
    keys = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")
    found: list[Any] = next((config[key] for key in keys if isinstance(config.get(key), list)), [])
    return [str(name) for name in found]


def _module_formats(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the modules that a file gives a format of their own."""
    found: list[tuple[str, str]] = []
    listed = config.get("quantized_layers")
    if isinstance(listed, Mapping):
        for name, entry in listed.items():
            format = _ALGORITHMS.get(str(_nested(entry, "quant_algo")).upper(), SIXTEEN)
            found.append((str(name), format))
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        targets = _nested(group, "targets")
        for target in targets if isinstance(targets, list) else ():
            if target != "Linear":
                found.append((str(target), _group_format(group) or SIXTEEN))
    return found


def _default_format(config: Mapping[str, Any]) -> str:
    """Return the format of the modules that no list names; empty if they stay in 16 bits or it is unknown."""
    method = str(config.get("quant_method", "")).lower().replace("_", "-")
    by_method = _METHODS.get(method.replace("-", "_"), "")
    if by_method == "fp8" and config.get("weight_block_size"):
        by_method = "fp8_block"
    if method in ("awq", "gptq", "auto-round", "gptq-marlin", "awq-marlin", "hqq"):
        return _integer(_whole(config.get("bits", config.get("w_bit", 4))), config.get("group_size"))
    if method.startswith("bitsandbytes") or "load_in_4bit" in config or "load_in_8bit" in config:
        if not config.get("load_in_4bit") and not config.get("_load_in_4bit"):
            return "int8"
        double = config.get("bnb_4bit_use_double_quant") is True
        return "nf4_double" if double else "nf4"
    algorithm = str(config.get("quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION":
        return by_method
    if algorithm:
        return _ALGORITHMS.get(algorithm, "")
    groups = config.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        every = [group for group in groups.values() if _nested(group, "targets") in (None, ["Linear"])]
        return _group_format(every[0]) if every else SIXTEEN
    if method == "quark":
        kind = str(_nested(config, "global_quant_config", "weight", "dtype"))
        return {"fp8_e4m3": "fp8", "fp4": "mxfp4", "int8": "int8", "int4": "int4"}.get(kind, "")
    return by_method


def _integer(width: int, group: object) -> str:
    """Return the name of integer weights with 16-bit activations, by width and group size (-1: one group per row)."""
    if width == 8:
        return "w8a16"
    size = _whole(group)
    usual = size in (0, _GROUP) or size < 0
    return ("int4" if usual else f"int4_g{size}") if width == 4 and size < 10_000 else ""


def _group_format(group: Any) -> str:
    """Return the format of one group of a compressed-tensors checkpoint: width, kind and group size of its weights."""
    weights = _nested(group, "weights")
    width, kind, size = (
        _whole(_nested(weights, "num_bits")),
        str(_nested(weights, "type")),
        _nested(weights, "group_size"),
    )
    activations = _whole(_nested(group, "input_activations", "num_bits")) or 16
    if kind == "float" and width == 4:
        return ("nvfp4" if activations < 16 else "w4a16_nvfp4") if _whole(size) == 16 else "mxfp4"
    if kind == "float" and width == 8:
        return "mxfp8" if _whole(size) == 32 else "fp8"
    if kind == "int" and width == 4 and activations == 8:
        return "w4afp8" if _nested(group, "input_activations", "type") == "float" else "w4a8"
    return "int8" if (width, activations) == (8, 8) else _integer(width, size) if activations == 16 else ""


def _nested(value: Any, *keys: str) -> Any:
    """Return the value under `keys`, one inside the other; None if a key is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _whole(value: Any) -> int:
    """Return `value` if it is a whole number, otherwise 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
