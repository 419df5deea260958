"""Number formats: bits of weights, activations, embedding and KV cache, and the rate of the matrix products.

A name is one of `EVERYDAY`, a list of widths, or a combination:

    w4a16e16kv8          weights of 4 bits, activations of 16, embedding and output head of 16, KV cache of 8
    int4_g32             int4 with one scale per 32 weights
    bf16+mxfp4           bf16, with routed experts in mxfp4
    fp8+mlp:nvfp4        fp8, with dense and shared feed-forwards in nvfp4; `head:` gives the output head's format
    fp8+kv:bf16          fp8, with a KV cache in 16 bits

Bare widths mean: 32 fp32, 16 half precision (the faster of fp16 and bf16), 8 int8, 6 fp6, 4 int4.
Weights narrower than the activations are expanded inside the kernel and multiplied at the rate of the activations.
Embedding, output head and the residual stream between kernels keep 16 bits under all formats with fewer bits. The KV
cache has the width of the activations, at least 8 bits, unless the name gives one; a serving engine may keep it wider
(`inference.engines`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from llm_analysis.errors import BadValue, nearest, shown
from llm_analysis.names import dtype_spelling
from llm_analysis.physics.gguf import MIXES, TYPE_BITS
from llm_analysis.physics.operators import MatmulFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS = {"fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "half": 16, "fp8": 8, "int8": 8, "fp6": 6, "int4": 4, "fp4": 4}
_BARE = {32: "fp32", 16: "half", 8: "int8", 6: "fp6", 4: "int4"}
_INT4_GROUP = 128  # usual number of weights that share a 16-bit scale (AWQ, Lin et al. 2023; GPTQ, Frantar et al. 2022)
_INT4_SCALE_BITS = 16 / _INT4_GROUP
_MX_SCALE_BITS = 8 / 32  # one 8-bit exponent per 32 elements (OCP Microscaling Formats v1.0, 2023)
_NVFP4_SCALE_BITS = 8 / 16  # one fp8 scale per 16 elements (NVIDIA, "Introducing NVFP4", 2025)
# NF4 (QLoRA, Dettmers et al. 2023): a 32-bit scale per 64 weights; double quantization stores these scales in 8 bits,
# with a 32-bit scale per 256 of them.
_NF4_SCALE_BITS = 32 / 64
_NF4_DOUBLE_SCALE_BITS = 8 / 64 + 32 / (64 * 256)

# A format without a rate on the GPU -> the next wider format, to which the weights are expanded.
_EMULATED_AT = {
    "fp4": "half",
    "fp8": "half",
    "fp6": "half",
    "int4": "int8",
    "int8": "half",
    "bf16": "fp32",
    "tf32": "fp32",
}

_WIDTHS = r"w(?P<w>[0-9]{1,3})a(?P<a>[0-9]{1,3})(?:e(?P<e>[0-9]{1,3}))?(?:kv(?P<kv>[0-9]{1,3}))?"
_GROUPED = r"int4_g(?P<group>[1-9][0-9]{0,3})"


class Everyday(NamedTuple):
    """A format with a name, as opposed to widths in bits."""

    weights: str
    weight_bits: float
    scale_bits: float  # bits of the scales, per weight
    math: str  # format of the matrix products
    stream: str  # format of the activations between kernels
    activation_bits: int
    embedding_bits: float


def _gguf(name: str) -> Everyday:
    """Return a GGUF format with the bits of its default type; `models.gguf` averages over the tensors of a model.

    llama.cpp keeps activations between kernels in 16 or 32 bits and expands weights inside the kernel.
    """
    default = TYPE_BITS[MIXES[name].default]
    whole = float(int(default))
    return Everyday(name, whole, default - whole, "half", "half", 16, default)


EVERYDAY = {
    "fp32": Everyday("fp32", 32, 0, "fp32", "fp32", 32, 32),
    "tf32": Everyday("fp32", 32, 0, "tf32", "fp32", 32, 32),
    "fp16": Everyday("fp16", 16, 0, "fp16", "fp16", 16, 16),
    "bf16": Everyday("bf16", 16, 0, "bf16", "bf16", 16, 16),
    "fp8": Everyday("fp8", 8, 0, "fp8", "half", 8, 16),
    "fp8_block": Everyday("fp8_block", 8, 0, "fp8", "half", 8, 16),  # DeepSeek-V3: a scale per 128 x 128 weights
    "mxfp8": Everyday("mxfp8", 8, _MX_SCALE_BITS, "fp8", "half", 8, 16),
    "int8": Everyday("int8", 8, 0, "int8", "half", 8, 16),
    "fp6": Everyday("fp6", 6, _MX_SCALE_BITS, "half", "half", 16, 16),
    "int4": Everyday("int4", 4, _INT4_SCALE_BITS, "half", "half", 16, 16),
    "w4a8": Everyday("int4", 4, _INT4_SCALE_BITS, "int8", "half", 8, 16),  # QServe (Lin et al. 2024)
    "w4afp8": Everyday("int4", 4, _INT4_SCALE_BITS, "fp8", "half", 8, 16),  # int4 weights, fp8 activations
    "nf4": Everyday("nf4", 4, _NF4_SCALE_BITS, "half", "half", 16, 16),
    "nf4_double": Everyday("nf4", 4, _NF4_DOUBLE_SCALE_BITS, "half", "half", 16, 16),
    "nvfp4": Everyday("nvfp4", 4, _NVFP4_SCALE_BITS, "fp4", "half", 4, 16),
    "w4a16_nvfp4": Everyday("nvfp4", 4, _NVFP4_SCALE_BITS, "half", "half", 16, 16),
    "mxfp4": Everyday("mxfp4", 4, _MX_SCALE_BITS, "fp4", "half", 4, 16),
    # BitNet b1.58 (Ma et al. 2025): ternary weights packed four to a byte, one scale per matrix, int8 activations.
    "bitnet": Everyday("bitnet", 2, 0, "int8", "half", 8, 16),
    **{name: _gguf(name) for name in MIXES},
}
DEFAULT_DTYPE = "w16a16e16"  # the format of a checkpoint that is not quantized


class Dtypes(NamedTuple):
    """Formats of weights, activations, embedding and KV cache. `math` is the format of the matrix products."""

    name: str
    weights: str
    weight_bits: float
    scale_bits: float  # bits of the scales, per weight
    math: str
    stream: str  # residual stream, attention and everything between the matrix products
    activation_bits: int
    embedding_bits: float
    kv_width: int | None = None  # bits of the KV cache, if the name or a flag gives them
    experts: Dtypes | None = None  # formats of the routed experts, if they differ
    mlp: Dtypes | None = None  # formats of dense and shared feed-forwards, if they differ
    head_bits: float = 0.0  # bits of the output head; 0: those of the embedding
    norm_bytes: float = 0.0  # bytes per element that a norm moves; 0: those of the stream
    notes: tuple[str, ...] = ()

    @property
    def stream_bytes(self) -> float:
        """Bytes per element between the kernels."""
        return BITS[self.stream] / 8

    @property
    def kv_bits(self) -> int:
        """Bits per element of the KV cache: by default those of the activations, at least 8."""
        return max(8, self.activation_bits) if self.kv_width is None else self.kv_width

    @property
    def kv_bytes(self) -> float:
        """Bytes per element of the KV cache."""
        return self.kv_bits / 8

    @property
    def linear(self) -> MatmulFormat:
        """Format of the products with the matrices of attention and state-space layers."""
        math_bits = BITS[self.math]
        kernel = self.weights if self.weight_bits == math_bits < 16 else f"w{self.weight_bits:g}a{math_bits}"
        if self.weight_bits >= 16:
            kernel = self.math
        input_bytes = math_bits / 8 if math_bits < 16 else self.stream_bytes
        return MatmulFormat(kernel, self.math, (self.weight_bits + self.scale_bits) / 8, input_bytes, self.stream_bytes)

    @property
    def routed(self) -> MatmulFormat:
        """Format of the products with the matrices of routed experts."""
        return (self.experts or self).linear

    def linear_of(self, part: str) -> MatmulFormat:
        """Return the format of the products with the matrices of a part of the model (see operators.PARTS)."""
        own = {"feed_forward": self.mlp, "expert": self.experts}.get(part)
        return (own or self).linear

    @property
    def head(self) -> MatmulFormat:
        """Format of the product with the output head."""
        weight_bytes = (self.head_bits or self.embedding_bits) / 8
        return MatmulFormat(self.stream, self.stream, weight_bytes, self.stream_bytes, self.stream_bytes)

    @property
    def router(self) -> MatmulFormat:
        """Format of the products with matrices that stay in the stream's format."""
        return MatmulFormat(self.stream, self.stream, self.stream_bytes, self.stream_bytes, self.stream_bytes)

    def attention_format(self, head_dim: int = 128) -> str:
        """Return the profile key of an attention kernel: format of its math, width of the cache, size of a head."""
        cache = "_kv8" if self.kv_bits == 8 else ""
        return f"{self.stream}{cache}" + ("" if head_dim == 128 else f"_d{head_dim}")

    def with_kv_bits(self, bits: int) -> Dtypes:
        """Return these formats with a KV cache of a given width."""
        return self._replace(kv_width=bits)

    def on(self, peak_flops: Mapping[str, float], gpu_name: str) -> Dtypes:
        """Return these formats as a GPU runs them: fp16 or bf16 chosen, missing rates emulated, with notes on both."""
        halves = {rate: peak_flops[rate] for rate in ("fp16", "bf16") if rate in peak_flops}
        half = max(halves, key=halves.__getitem__, default="fp32")  # the faster one; fp16 if both are equally fast
        math, math_note = _available(self.math, half, peak_flops, gpu_name)
        stream, stream_note = _available(self.stream, half, peak_flops, gpu_name)
        notes = dict.fromkeys(note for note in (math_note, stream_note) if note)
        experts, mlp = (part.on(peak_flops, gpu_name) if part else None for part in (self.experts, self.mlp))
        for label, part in (("experts", experts), ("feed-forward", mlp)):
            notes |= dict.fromkeys(f"{label}: {note}" for note in (part.notes if part else ()) if note not in notes)
        return self._replace(math=math, stream=stream, experts=experts, mlp=mlp, notes=self.notes + tuple(notes))


def _available(rate: str, half: str, peak_flops: Mapping[str, float], gpu_name: str) -> tuple[str, str]:
    """Return the rate that a GPU uses for `rate`, and a note if it is a different one.

    Raise BadValue if the GPU has no rate to emulate it with.
    """
    found, wanted = half if rate == "half" else rate, rate
    while found not in peak_flops:
        following = _EMULATED_AT.get(found)
        if following is None:
            known = ", ".join(peak_flops)
            raise BadValue(f"{gpu_name} has no published {rate} rate; it has {known}")
        found = half if following == "half" else following
    if wanted in ("half", found):
        return found, ""
    return found, f"{gpu_name} has no {wanted} rate: multiplied at its {found} rate"


def get_dtypes(name: object) -> Dtypes:
    """Return the formats of a name (see the top of this file). Raise BadValue for an unknown name."""
    if not isinstance(name, str):
        raise BadValue(f"dtype_name must be text such as bf16 or w4a16e16, not {shown(name)}")
    base, *parts = name.split("+")
    found = _single(base)
    for part in parts:
        label, colon, own = part.rpartition(":")
        if colon and label not in ("mlp", "experts", "head", "kv"):
            raise BadValue(f"dtype {shown(name)}: {shown(label)} is none of mlp, experts, head, kv")
        if label == "kv":
            if BITS.get(own) not in (8, 16):
                raise BadValue(f"dtype {shown(name)}: the KV cache is fp8, int8, fp16 or bf16, not {shown(own)}")
            found = found.with_kv_bits(BITS[own])
        elif label == "head":
            head = _single(own)
            found = found._replace(head_bits=head.weight_bits + head.scale_bits)
        elif label == "mlp":
            found = found._replace(mlp=_single(own))
        else:
            found = found._replace(experts=_single(own))
    return found._replace(name=name) if parts else found


def _single(name: str) -> Dtypes:
    """Return the formats of a name without `+`."""
    name = dtype_spelling(name)
    everyday, kv_width = EVERYDAY.get(name), None
    group = re.fullmatch(_GROUPED, name)
    if group:
        everyday = EVERYDAY["int4"]._replace(scale_bits=16 / int(group["group"]))
    if everyday is None:
        everyday, kv_width = _from_widths(name)
    return Dtypes(name, *everyday, kv_width)


def of_checkpoint(weight_format: str) -> Dtypes:
    """Return the formats of a published checkpoint; 16 bits if it is not quantized."""
    return get_dtypes(weight_format or DEFAULT_DTYPE)


def _from_widths(name: str) -> tuple[Everyday, int | None]:
    """Return the formats and the KV width of a name such as w4a16e16kv8. Raise BadValue for any other name."""
    match = re.fullmatch(_WIDTHS, name)
    if match is None:
        raise BadValue(f"unknown dtype {shown(name)}{nearest(name, EVERYDAY)} (or widths in bits, such as w8a8e16kv8)")
    widths = {key: int(value) for key, value in match.groupdict().items() if value}
    wrong = [bits for bits in widths.values() if bits not in _BARE]
    if wrong:
        raise BadValue(f"dtype {name!r}: {wrong[0]} bits is not one of {', '.join(map(str, _BARE))}")
    weights, activations = widths["w"], widths["a"]
    scale_bits = {"int4": _INT4_SCALE_BITS, "fp6": _MX_SCALE_BITS}.get(_BARE[weights], 0.0)
    math, stream = _BARE[max(weights, activations)], _BARE[max(activations, 16)]
    embedding = widths.get("e", max(activations, 16))
    return Everyday(_BARE[weights], weights, scale_bits, math, stream, activations, embedding), widths.get("kv")
