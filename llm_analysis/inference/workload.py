"""The workload: a static batch with its serving options, and the passes that compute it.

Serving options are passes through the same operators:

cached prefix     p of the s prompt tokens are in the cache: the prefill computes s - p new ones that attend to them
chunked prefill   passes of at most C tokens. A pass holds as many short prompts as fit, the last of them in part. A
                  longer prompt is cut into chunks of C, each attending to the ones before; what is left of it shares a
                  pass with what is left of other prompts. The prefill ends when all prompts have their first token
samples           n continuations of each prompt: one prefill, n sequences to decode that share the prompt's cache
speculation       a draft model proposes k tokens, one pass of the model checks them (Leviathan et al. 2023); if each is
                  accepted with probability a, independently, such a step yields
                      1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)  tokens
                  and a token takes (check of k + 1 tokens + k draft passes) / that number
disaggregation    prefill and decode on separate GPUs: the prompt's cache goes over the network between servers before
                  the second token, each GPU sending its share

Decode: step i of n - 1 (the prefill gives the first token) attends to s + i cached tokens. Its time is smooth in the
context, except for kinks and jumps where a window fills up or a chunk begins. The steps are cut into stretches there; a
short stretch is taken step by step, a longer one by Gauss-Legendre quadrature with four nodes, each step standing for
the unit interval around it: exact for a time linear in the context, as it is under `ideal`. Without a KV cache
operators change from memory-bound to compute-bound inside a stretch: within 1e-3 of the token loop in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from llm_analysis.errors import BadValue, Unsupported, one_line
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Count
from llm_analysis.units import NUMBER, Quantity, floor, maximum, minimum, real, some, where

_MOST = 1e9  # largest value of any count
# Options that a plain static batch does not have.
_SERVING = ("num_samples", "cached_prefix_len", "prefill_chunk_size", "num_draft_tokens", "disaggregated")


def _array(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Return an array of whole numbers as float64; pass anything else on to the check of one whole number."""
    if not hasattr(value, "dtype"):
        return check(value)
    if value.ndim == 0:
        return check(value.item())
    if value.dtype.kind not in "iuf" or not value.size:
        raise ValueError("an array must hold numbers")
    for edge in (value.min(), value.max()):
        check(int(edge) if abs(edge) <= _MOST else _MOST * 2)
    if some(value % 1 != 0):
        raise ValueError("an array must hold whole numbers")
    return value.astype("float64")


if TYPE_CHECKING:
    Counts = Quantity
    CountsFromZero = Quantity
else:
    Counts = Annotated[int, Field(gt=0, le=10**9), WrapValidator(_array)]
    CountsFromZero = Annotated[int, Field(ge=0, le=10**9), WrapValidator(_array)]


class Workload(BaseModel):
    """A static batch from start to end. Batch, prompt, generated tokens and cached prefix may be arrays that broadcast.

    Raises BadValue for a value out of range, and for options that contradict each other.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    batch_size_per_gpu: Counts = 1  # prompts in a batch of one replica
    seq_len: Counts = 512  # tokens of each prompt
    num_tokens_to_generate: Counts = 32
    use_kv_cache: bool = True
    num_samples: Annotated[int, Field(gt=0, le=10**6)] = 1  # continuations of each prompt, which share its KV cache
    cached_prefix_len: CountsFromZero = 0  # prompt tokens whose keys and values are in the cache already
    prefill_chunk_size: Count | None = None  # most tokens of a prefill pass, all prompts together
    num_draft_tokens: Annotated[int, Field(ge=0, le=1000)] = 0  # proposed by the draft model in each decode step
    acceptance_rate: Annotated[float, Field(ge=0, le=1)] | None = None  # probability that a drafted token is accepted
    disaggregated: bool = False  # prefill and decode on separate GPUs
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 1.0  # the fraction of the memory that may be used
    max_num_seqs: Count | None = None  # most sequences that the server runs at a time

    if not TYPE_CHECKING:  # type checkers take the parameters from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise BadValue(one_line(error, type(self).model_fields)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Workload:
        if some(self.cached_prefix_len >= self.seq_len):
            raise ValueError(f"cached_prefix_len {self.cached_prefix_len} must be below seq_len {self.seq_len}")
        if not self.use_kv_cache and (given := self.served):
            raise ValueError(f"{given[0]} needs the KV cache; leave out use_kv_cache False")
        if (self.acceptance_rate is None) != (self.num_draft_tokens == 0):
            raise ValueError("give num_draft_tokens and acceptance_rate together")
        return self

    @property
    def served(self) -> list[str]:
        """Names of the serving options that are in use."""
        plain = Workload.model_fields
        return [name for name in _SERVING if some(getattr(self, name) != plain[name].default)]

    @property
    def num_sequences(self) -> Quantity:
        """Sequences that are decoded together."""
        return self.batch_size_per_gpu * self.num_samples

    @property
    def new_prompt_tokens(self) -> Quantity:
        """Tokens of a prompt that the prefill computes."""
        return self.seq_len - self.cached_prefix_len

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a decode step is expected to give each sequence: more than one if a draft is checked."""
        return sum((self.acceptance_rate or 0.0) ** i for i in range(self.num_draft_tokens + 1))

    def check_shared_by(self, cp_size: int) -> None:
        """Raise Unsupported if a prefill pass has fewer tokens of a prompt than context-parallel ranks."""
        least = minimum(self.new_prompt_tokens, self.prefill_chunk_size or self.new_prompt_tokens)
        if some(cp_size > least):
            least = least if isinstance(least, NUMBER) else least.min()
            tokens = f"{least:g} tokens" if least > 1 else "one token"
            raise Unsupported(
                f"cp_size {cp_size} is more than the {tokens} of a prompt in one pass; try cp_size {least:g}"
            )

    @property
    def fits_one_pass(self) -> bool:
        """Whether the prefill of the whole batch is one pass."""
        chunk = self.prefill_chunk_size
        return chunk is None or not some(self.batch_size_per_gpu * self.new_prompt_tokens > chunk)

    @property
    def widest_pass(self) -> Step:
        """The prefill pass with most activations: the whole batch, the prompts that a chunk holds, or a last chunk."""
        b, new, chunk = real(self.batch_size_per_gpu), real(self.new_prompt_tokens), self.prefill_chunk_size
        if chunk is None or self.fits_one_pass:
            return Step(b, new, real(self.cached_prefix_len))
        prompts = new <= chunk
        batch = where(b * new <= chunk, b, where(prompts, chunk / new, 1.0))
        context = where(prompts, real(self.cached_prefix_len), real(self.seq_len - chunk))
        return Step(batch, minimum(new, float(chunk)), context)


# Abscissae and weights of the four-point Gauss-Legendre rule on (-1, 1); weights halved, so that they sum to 1.
# Abramowitz and Stegun, Handbook of Mathematical Functions, table 25.4.
_FOUR_POINTS = (
    (-0.861136311594052575224, 0.173927422568726928687),
    (-0.339981043584856264803, 0.326072577431273071313),
    (0.339981043584856264803, 0.326072577431273071313),
    (0.861136311594052575224, 0.173927422568726928687),
)
_FEW = 8  # longest stretch in which each step is computed by itself
_STRETCHES = 16  # stretches of a decode without a cache, in which matrices change from memory-bound to compute-bound


def nodes(first: Quantity, count: Quantity, kinks: Iterable[Quantity] = ()) -> Iterator[tuple[Quantity, Quantity]]:
    """Yield (weight, x) that average a function over x = first, first + 1, ... (`count` points).

    The weights sum to 1. `kinks`, in ascending order, cut the points into stretches; a point at a kink belongs to the
    stretch before it. With arrays a node that an element does not need has weight 0 there.
    """
    end = first + count
    inside = [kink for kink in kinks if some((kink >= first) & (kink < end - 1))]
    edges = [where(kink < first, first, where(kink < end - 1, floor(kink) + 1, end)) for kink in inside]
    for start, stop in pairwise([first, *edges, end]):
        length = stop - start
        short, middle, half = length <= _FEW, (start + stop - 1) / 2, length / 2
        for k in range(_FEW):
            if k < len(_FOUR_POINTS):
                abscissa, weight = _FOUR_POINTS[k]
                of_long = weight * length / count
                x = where(short, start + float(k), middle + half * abscissa)
            elif some(short):
                of_long, x = 0.0, start + float(k)
            else:
                break
            share = where(short, where(k < length, 1 / count, 0.0), of_long)
            if some(share > 0):
                yield share, x


def _decode_passes(model: ModelConfig, workload: Workload) -> Iterator[tuple[Quantity, Step]]:
    """Yield (weight, pass) with the mean decode step as their weighted sum; the weights sum to 1.

    Without a KV cache each step computes the whole sequence again.
    """
    b, s = real(workload.num_sequences), workload.seq_len
    steps = maximum(workload.num_tokens_to_generate - 1, 1)
    if not workload.use_kv_cache:
        cuts = [s + steps * i / _STRETCHES for i in range(1, _STRETCHES)]
        yield from ((weight, Step(b, x + 1)) for weight, x in nodes(s, steps, cuts))
        return
    for weight, context in nodes(s, steps, sorted(model.decode_kinks)):
        yield weight, Step(b, 1.0, context, "decode")


def prefill_passes(workload: Workload) -> Iterator[tuple[Quantity, Step]]:
    """Yield (times, pass) of the prefill of the whole batch, in order."""
    w, chunk = workload, workload.prefill_chunk_size
    b, new, prefix = real(w.batch_size_per_gpu), real(w.new_prompt_tokens), real(w.cached_prefix_len)
    if chunk is None or w.fits_one_pass:
        yield 1.0, Step(b, new, prefix)
        return
    chunks = floor(new / chunk)  # whole ones of a prompt
    passes: list[tuple[Quantity, Step]] = []
    if some(chunks > 0):
        for weight, i in nodes(0.0, maximum(chunks, 1.0)):
            passes.append((weight * chunks * b, Step(1.0, float(chunk), prefix + i * chunk)))
    rest = new - chunks * chunk  # tokens that each prompt has left over
    left, together = b * rest, chunk / maximum(rest, 1.0)  # tokens in all, prompts in a pass
    full = floor(left / chunk)
    start = prefix + chunks * chunk
    passes.append((full, Step(together, maximum(rest, 1.0), start)))
    last = (left - full * chunk) / maximum(rest, 1.0)
    passes.append((where(last > 0, 1.0, 0.0), Step(where(last > 0, last, 1.0), maximum(rest, 1.0), start)))
    yield from ((times, step) for times, step in passes if some(times > 0))


def checking_passes(model: ModelConfig, workload: Workload) -> Iterator[tuple[Quantity, Step]]:
    """Yield (weight, pass) of the model for one token: the mean decode step, or its share of a checking step."""
    share, checked = 1.0 / workload.tokens_per_step, 1.0 + workload.num_draft_tokens
    for weight, step in _decode_passes(model, workload):
        yield weight * share, step if checked == 1.0 else step._replace(new_tokens=checked)


def drafting_passes(draft: ModelConfig, workload: Workload) -> Iterator[tuple[Quantity, Step]]:
    """Yield (weight, pass) of the draft model for one token."""
    share = workload.num_draft_tokens / workload.tokens_per_step
    for weight, step in _decode_passes(draft, workload):
        yield weight * share, step
