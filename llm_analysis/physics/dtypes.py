"""Number formats: what each class of tensor is held in, and at which rate it is multiplied.

A name is parsed, not looked up: `w4a16e16kv8` is weights of 4 bits, activations of 16, embedding and output head of 16,
KV cache of 8. Bare widths mean: 32 fp32, 16 half precision (fp16 where the GPU has it, else bf16), 8 int8, 4 int4;
where weights are narrower than activations they are expanded inside the kernel and multiplied at the activations'
rate. The everyday names below say the format itself; `bf16+mxfp4` is bf16 with experts in mxfp4. Embedding and head
stay at 16 bits under all narrow formats, and so does the residual stream between the kernels. The KV cache follows the
activations, never below 8 bits, unless a name says so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from llm_analysis.errors import BadValue, nearest, shown
from llm_analysis.names import dtype_spelling
from llm_analysis.physics.operators import MatmulFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS = {"fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "half": 16, "fp8": 8, "int8": 8, "fp6": 6, "int4": 4, "fp4": 4}
BARE = {32: "fp32", 16: "half", 8: "int8", 6: "fp6", 4: "int4"}

# Bits that the scales of a group add to each weight: one 16-bit scale per 128 weights for int4 (AWQ, GPTQ);
# one 8-bit scale per 16 for nvfp4 and per 32 for mxfp4 (OCP microscaling formats, 2023); the rest need no counting.
SCALE_BITS = {"int4": 16 / 128, "nvfp4": 8 / 16, "mxfp4": 8 / 32, "fp6": 8 / 32}

# The rate a format is multiplied at where the GPU lacks its own: the next wider one that the weights are expanded to.
EMULATED_AT = {
    "fp4": "half",
    "fp8": "half",
    "fp6": "half",
    "int4": "int8",
    "int8": "half",
    "bf16": "fp32",
    "tf32": "fp32",
}

PATTERN = re.compile(r"w(?P<w>[0-9]{1,3})a(?P<a>[0-9]{1,3})(?:e(?P<e>[0-9]{1,3}))?(?:kv(?P<kv>[0-9]{1,3}))?")


class Dtypes(NamedTuple):
    """Formats of weights, activations, embedding and KV cache. `math` is the format of the matrix multiplications."""

    name: str
    weights: str
    weight_bits: float
    scale_bits: float  # per weight, on top of its own
    math: str
    stream: str  # residual stream, attention and everything between the matrix multiplications
    activation_bits: int
    embedding_bits: int
    kv_bits: int
    experts: Dtypes | None = None  # formats of the experts' matrices, where they are others
    norm_bytes: float = 0.0  # bytes per element that a norm moves; 0: those of the stream
    notes: tuple[str, ...] = ()

    @property
    def stream_bytes(self) -> float:
        """Bytes per element between the kernels."""
        return BITS[self.stream] / 8

    @property
    def kv_bytes(self) -> float:
        """Bytes per element of the KV cache."""
        return self.kv_bits / 8

    @property
    def linear(self) -> MatmulFormat:
        """How the layers' matrices are multiplied."""
        math_bits = BITS[self.math]
        kernel = self.weights if self.weight_bits == math_bits < 16 else f"w{self.weight_bits:g}a{math_bits}"
        if self.weight_bits >= 16:
            kernel = self.math
        input_bytes = math_bits / 8 if math_bits < 16 else self.stream_bytes
        return MatmulFormat(kernel, self.math, (self.weight_bits + self.scale_bits) / 8, input_bytes, self.stream_bytes)

    @property
    def routed(self) -> MatmulFormat:
        """How the experts' matrices are multiplied."""
        return (self.experts or self).linear

    @property
    def head(self) -> MatmulFormat:
        """How the output head and other matrices that are never quantised are multiplied."""
        return MatmulFormat(self.stream, self.stream, self.embedding_bits / 8, self.stream_bytes, self.stream_bytes)

    @property
    def router(self) -> MatmulFormat:
        """How matrices that stay in the stream's format are multiplied."""
        return MatmulFormat(self.stream, self.stream, self.stream_bytes, self.stream_bytes, self.stream_bytes)

    def attention_format(self, head_dim: int = 128) -> str:
        """The profile key of an attention kernel: format of its math, width of the cache, size of a head."""
        cache = "_kv8" if self.kv_bits == 8 else ""
        return f"{self.stream}{cache}" + ("" if head_dim == 128 else f"_d{head_dim}")

    def on(self, peak_flops: Mapping[str, float], gpu_name: str) -> Dtypes:
        """These formats as this GPU runs them: half precision named, missing rates emulated, both told in `notes`."""
        halves = {rate: peak_flops[rate] for rate in ("fp16", "bf16") if rate in peak_flops}
        half = max(halves, key=halves.__getitem__, default="fp32")  # the faster one; fp16 if both are equally fast
        math, math_note = available(self.math, half, peak_flops, gpu_name)
        stream, stream_note = available(self.stream, half, peak_flops, gpu_name)
        notes = dict.fromkeys(note for note in (math_note, stream_note) if note)
        experts = self.experts.on(peak_flops, gpu_name) if self.experts else None
        notes |= dict.fromkeys(f"experts: {note}" for note in (experts.notes if experts else ()) if note not in notes)
        return self._replace(math=math, stream=stream, experts=experts, notes=self.notes + tuple(notes))


def available(rate: str, half: str, peak_flops: Mapping[str, float], gpu_name: str) -> tuple[str, str]:
    """The rate that stands in for `rate` on a GPU, and a note where it is another one.

    Raises BadValue where the GPU has no rate to emulate it with.
    """
    found, wanted = half if rate == "half" else rate, rate
    while found not in peak_flops:
        following = EMULATED_AT.get(found)
        if following is None:
            known = ", ".join(peak_flops)
            raise BadValue(f"{gpu_name} has no published {rate} rate; it has {known}")
        found = half if following == "half" else following
    if wanted in ("half", found):
        return found, ""
    return found, f"{gpu_name} has no {wanted} rate: multiplied at its {found} rate"


DEFAULT_DTYPE = "w16a16e16"  # of a checkpoint that is not quantised

# name: weights, their bits, multiplied as, stream, bits of activations, bits of the embedding
EVERYDAY = {
    "fp32": ("fp32", 32, "fp32", "fp32", 32, 32),
    "tf32": ("fp32", 32, "tf32", "fp32", 32, 32),
    "fp16": ("fp16", 16, "fp16", "fp16", 16, 16),
    "bf16": ("bf16", 16, "bf16", "bf16", 16, 16),
    "fp8": ("fp8", 8, "fp8", "half", 8, 16),
    "fp8_block": ("fp8_block", 8, "fp8", "half", 8, 16),  # a scale for each block of 128 x 128 weights
    "int8": ("int8", 8, "int8", "half", 8, 16),
    "fp6": ("fp6", 6, "half", "half", 16, 16),
    "int4": ("int4", 4, "half", "half", 16, 16),
    "nvfp4": ("nvfp4", 4, "fp4", "half", 4, 16),
    "mxfp4": ("mxfp4", 4, "fp4", "half", 4, 16),
}


def get_dtypes(name: object) -> Dtypes:
    """The formats that `name` stands for. Raises BadValue for a name that is neither parsed nor known."""
    if not isinstance(name, str):
        raise BadValue(f"dtype_name must be text such as bf16 or w4a16e16, not {shown(name)}")
    others, plus, experts = name.partition("+")
    if plus:
        return get_dtypes(others)._replace(name=name, experts=get_dtypes(experts))
    kv_bits, name = None, dtype_spelling(name)
    if name in EVERYDAY:
        weights, weight_bits, math, stream, activation_bits, embedding_bits = EVERYDAY[name]
    else:
        widths = parsed_widths(name)
        weight_bits, activation_bits, kv_bits = widths["w"], widths["a"], widths.get("kv")
        weights, math, stream = (
            BARE[weight_bits],
            BARE[max(weight_bits, activation_bits)],
            BARE[max(activation_bits, 16)],
        )
        embedding_bits = widths.get("e", max(activation_bits, 16))
    return Dtypes(
        name=name,
        weights=weights,
        weight_bits=weight_bits,
        scale_bits=SCALE_BITS.get(weights, 0.0),
        math=math,
        stream=stream,
        activation_bits=activation_bits,
        embedding_bits=embedding_bits,
        kv_bits=kv_bits or max(8, activation_bits),
    )


def of_checkpoint(weight_format: str, part: str) -> Dtypes:
    """The formats that a checkpoint is published in: `weight_format` for all matrices, or for the experts' alone."""
    if not weight_format:
        return get_dtypes(DEFAULT_DTYPE)
    return get_dtypes(f"{DEFAULT_DTYPE}+{weight_format}" if part == "experts" else weight_format)


def parsed_widths(name: str) -> dict[str, int]:
    """The widths in bits that a name such as w4a16e16kv8 spells. Raises BadValue for any other name."""
    match = PATTERN.fullmatch(name)
    if match is None:
        raise BadValue(f"unknown dtype {shown(name)}{nearest(name, EVERYDAY)} (or widths in bits, such as w8a8e16kv8)")
    widths = {key: int(value) for key, value in match.groupdict().items() if value}
    wrong = [bits for bits in widths.values() if bits not in BARE]
    if wrong:
        raise BadValue(f"dtype {name!r}: {wrong[0]} bits is not one of {', '.join(map(str, BARE))}")
    return widths
