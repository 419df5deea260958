"""Check that a layout can shard a model: heads, KV heads, layers, experts and shared tokens."""

from math import gcd, isqrt

from llm_analysis.errors import Unsupported
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.kinds import MIXERS, base_name
from llm_analysis.physics.parallelism import Parallelism

_GATHERED = (
    "cp_size: attention is assumed to wait for all keys and values; ring attention overlaps the two and is faster"
)


def _divisors(n: int) -> list[int]:
    """Return the divisors of `n`, the least first."""
    small = [i for i in range(1, isqrt(n) + 1) if n % i == 0]
    return sorted({*small, *(n // i for i in small)})


def _nearest_sizes(near: int, possible: list[int]) -> str:
    """Return the possible sizes around `near`, as text."""
    below, above = [i for i in possible if i < near][-2:], [i for i in possible if i > near][:1]
    return " or ".join(", ".join(map(str, below + above)).rsplit(", ", 1))


def check_layout(layout: Parallelism, model: ModelConfig) -> tuple[str, ...]:
    """Return notes on how `layout` shards `model`.

    Raises Unsupported, with the nearest possible sizes, where it cannot.
    """
    kv_heads, t = model.num_key_value_heads, layout.tp_size
    for what, number in _split_heads(model).items():
        if number % t:
            near = _nearest_sizes(t, _tensor_sizes(model))
            raise Unsupported(f"tp_size {t} does not divide the {number} {what} of {model.name}; try {near}")
    if layout.pp_size > model.num_hidden_layers:
        raise Unsupported(f"pp_size {layout.pp_size} is more than the {model.num_hidden_layers} layers of {model.name}")
    if layout.sp_size not in (1, t):
        raise Unsupported(f"sp_size must be 1 or tp_size ({t}), not {layout.sp_size}")
    if kv_heads % t and t % kv_heads:
        near = _nearest_sizes(t, _tensor_sizes(model))
        raise Unsupported(
            f"tp_size {t} neither divides nor is a multiple of the {kv_heads} KV heads of {model.name}; try {near}"
        )
    _check_experts(layout, model)
    _check_context(layout, model)
    few = f"tp_size {t} is more than the {kv_heads} KV heads: each head is stored on {t // kv_heads} GPUs"
    return (*((few,) if kv_heads < t else ()), *((_GATHERED,) if layout.cp_size > 1 else ()))


def _split_heads(model: ModelConfig) -> dict[str, int]:
    """Return the numbers of heads that tensor parallelism splits, by name: the attention's first."""
    others = {name for mixer, _ in model.layer_kinds for name in MIXERS[base_name(mixer)].heads}
    found = {name: getattr(model, name) for name in sorted(others)}
    return {"attention heads": model.num_attention_heads} | {name: n for name, n in found.items() if n}


def _tensor_sizes(model: ModelConfig) -> list[int]:
    """Return the values of tp_size that the heads of a model allow, the least first."""
    kv_heads, even = model.num_key_value_heads, _divisors(gcd(*_split_heads(model).values()))
    return [i for i in even if kv_heads % i == 0 or i % kv_heads == 0]


def _check_context(layout: Parallelism, model: ModelConfig) -> None:
    """Raise Unsupported if the tokens of a layer kind cannot be shared among context-parallel ranks."""
    t, n = layout.tp_size, layout.cp_size
    if n == 1:
        return
    reasons = [why for mixer, _ in model.layer_kinds if (why := MIXERS[base_name(mixer)].not_shared)]
    if reasons:
        wide = max(i for i in _tensor_sizes(model) if i <= t * n)
        raise Unsupported(f"cp_size {n}: {reasons[0]} of {model.name}; try cp_size 1 with tp_size {wide}")


def _check_experts(layout: Parallelism, model: ModelConfig) -> None:
    """Raise Unsupported if the experts cannot be spread over `ep_size` GPUs."""
    ep, t, experts, imbalance = layout.ep_size, layout.tp_size, model.num_experts, layout.expert_imbalance
    if ep == 1 and imbalance == 1:
        return
    if not experts:
        asked = f"ep_size {ep}" if ep > 1 else f"expert_imbalance {imbalance:g}"
        raise Unsupported(f"{asked}: {model.name} has no experts to spread")
    if ep == 1:
        raise Unsupported(f"expert_imbalance {imbalance:g} applies to GPUs that share the experts: give ep_size too")
    group = t * layout.cp_size
    gpus, ranks = group * layout.dp_size, f" times cp_size {layout.cp_size}" if layout.cp_size > 1 else ""
    even = [i for i in _divisors(experts) if gpus % i == 0 and (t % i == 0 or i % t == 0)]
    possible = [i for i in even if group % i == 0 or i % group == 0]
    if ep not in possible:
        enough = f"dp_size {ep // group}" if experts % ep == 0 and ep % group == 0 else ""
        sizes = "" if enough and possible == [1] else _nearest_sizes(ep, possible)
        raise Unsupported(
            f"ep_size {ep} cannot spread the {experts} experts of {model.name} over the {gpus} GPUs of tp_size {t}"
            f"{ranks} times dp_size {layout.dp_size}; try {', or '.join(filter(None, (sizes, enough)))}"
        )
