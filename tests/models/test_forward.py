"""Parameter counts against published ones, and the laws that a model's operators keep."""

import contextlib
import json
import re
from math import isclose

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis.catalog import get_model
from llm_analysis.errors import Unsupported
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import forward, growing_ops, kv_bytes_per_token, num_active_params, num_params
from llm_analysis.models.layers.feed_forward import distinct_experts
from llm_analysis.models.reading.reader import read_model
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import PARTS, Op, Step
from llm_analysis.physics.parallelism import Parallelism

FOLDER = ROOT / "model_configs"
BF16 = get_dtypes("bf16").on({"bf16": 1.0, "fp16": 1.0}, "any")
ONE = Parallelism()


def model_named(name: str) -> ModelConfig:
    return read_model(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), name)


MODELS = {path.stem: model_named(path.stem) for path in sorted(FOLDER.glob("*.json"))}

# Published counts that the shapes do not give within 1 %, each with the reason.
NOMINAL = "the published count is the name's round number"
STORED_TWICE = "the published count holds the tied output head a second time"
NOT_THE_SHAPES = {
    "opt-350m": NOMINAL,
    "opt-1.3b": NOMINAL,
    "opt-2.7b": NOMINAL,
    "opt-13b": NOMINAL,
    "qwen3-1.7b": NOMINAL,
    "kimi-k2": NOMINAL,
    "deepseek-v2-lite": NOMINAL,
    "llama-4-scout": "109B is rounded and holds the vision part, which is not counted here",
    "qwen1.5-0.5b": STORED_TWICE,
    "falcon-7b": STORED_TWICE,
    "falcon-40b": STORED_TWICE,
}
# Published counts of active parameters: some leave the output head out too, some include the embedding table.
WITHOUT_HEAD = {"deepseek-v2-lite", "glm-4.5", "glm-4.5-air"}
WITH_EMBEDDING = {"qwen1.5-moe-a2.7b", "qwen3-30b-a3b"}


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.published_num_params])
def test_parameters_are_the_published_ones(name: str) -> None:
    published = MODELS[name].published_num_params
    assert published is not None
    agrees = isclose(num_params(MODELS[name]), published, rel_tol=0.01)  # published counts are rounded to 3 digits
    assert agrees == (name not in NOT_THE_SHAPES), f"{num_params(MODELS[name]):,.0f} against {published:,.0f}"


def test_a_head_stored_twice_explains_the_difference() -> None:
    for name, reason in NOT_THE_SHAPES.items():
        model, published = MODELS[name], MODELS[name].published_num_params
        if reason == STORED_TWICE and published:
            copy = model.vocab_size * model.hidden_size
            assert isclose(num_params(model) + copy, published, rel_tol=0.002), name


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_exactly_those_counted_from_the_shapes(name: str) -> None:
    """The sources have a count of other authors from the same shapes; ours is identical."""
    counted = re.search(r"shapes give (\d+) parameters", MODELS[name].source)
    if counted is None:
        pytest.skip("no count in its source")
    assert num_params(MODELS[name]) == int(counted[1])


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.published_num_active_params])
def test_active_parameters_are_the_published_ones(name: str) -> None:
    model, published = MODELS[name], MODELS[name].published_num_active_params
    table = model.vocab_size * model.hidden_size
    added = table * ((name in WITH_EMBEDDING) - (name in WITHOUT_HEAD))
    assert published is not None
    # 7 % is half a unit of the last digit of "2.4B active", the shortest of the published figures.
    assert isclose(num_active_params(model) + added, published, rel_tol=0.07)


# One model for each kind of layer; a made-up one if no published model is small enough.
BASE = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1024,
    "vocab_size": 4096,
    "max_position_embeddings": 65536,
}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
LATENT = {"q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32}
INDEX = {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 128}
DELTA = {
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "head_dim": 64,
}
STATE = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "num_experts": 4, "num_experts_per_tok": 2}
KINDS: dict[str, dict[str, object]] = {
    "dense": {"model_type": "llama"},
    "biased": {"model_type": "gpt2"},
    "windowed": {"model_type": "gemma2", "sliding_window": 256, "head_dim": 64},
    "experts": {"model_type": "mixtral", **EXPERTS, "n_shared_experts": 1},
    "biased experts": {"model_type": "gpt_oss", **EXPERTS, "sliding_window": 128},
    "latent": {"model_type": "deepseek_v3", **EXPERTS, **LATENT, "first_k_dense_replace": 1},
    "sparse latent": {"model_type": "deepseek_v32", **EXPERTS, **LATENT, **INDEX},
    "chunked": {"model_type": "llama4", **EXPERTS, "attention_chunk_size": 512},
    "delta": {"model_type": "qwen3_next", **EXPERTS, **DELTA},
    "lightning": {"model_type": "minimax", "num_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"model_type": "jamba", **STATE},
    "mamba2": {"model_type": "mamba2", "num_heads": 16, "head_dim": 64, "state_size": 32, "n_groups": 8},
    "parallel": {"model_type": "gptj"},
}
SMALL = {name: read_model(BASE | keys, name) for name, keys in KINDS.items()}
# Matrices that every tensor-parallel GPU holds and runs in full.
REPLICATED = {"router", "shared_expert_gate", "latent_down", "index_queries", "index_key_weights"}
SIZES = st.integers(1, 4096).map(float)


def matmul_flops(ops: list[Op], whole: bool) -> float:
    """FLOP of the matrix products on one GPU: those that are replicated, or those that are sharded."""
    kinds = ("gemm", "grouped_gemm")
    return sum(float(op.count * op.flops) for op in ops if op.kind in kinds and (op.name in REPLICATED) == whole)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@given(batch=SIZES, tokens=SIZES, context=SIZES, shards=st.sampled_from([2, 4, 8]))
def test_tensor_parallelism_conserves_matmul_flops(
    kind: str, phase: str, batch: float, tokens: float, context: float, shards: int
) -> None:
    step = Step(batch, tokens if phase == "prefill" else 1.0, context, phase)
    alone = forward(SMALL[kind], step, BF16, ONE)
    shared = forward(SMALL[kind], step, BF16, Parallelism(tp_size=shards))
    assert isclose(matmul_flops(alone, whole=False), matmul_flops(shared, whole=False) * shards, rel_tol=1e-9)
    assert isclose(matmul_flops(alone, whole=True), matmul_flops(shared, whole=True), rel_tol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_the_bytes_held_are_those_of_the_parameters(name: str) -> None:
    ops = forward(MODELS[name], Step(1.0, 1.0), BF16, ONE)
    sinks = MODELS[name].attention_sinks * MODELS[name].num_attention_heads * MODELS[name].num_hidden_layers
    assert sum(float(op.count) * op.stored_bytes for op in ops) == 2 * (num_params(MODELS[name]) - sinks)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("shards", [2, 8])
def test_tensor_parallel_gpus_hold_each_weight_once_except_replicated_ones(kind: str, shards: int) -> None:
    """Replicated: norms and other elementwise weights, positions, routers, latent_down, biases of rows (1 in 256)."""
    alone = forward(SMALL[kind], Step(1.0, 1.0), BF16, ONE)
    shared = forward(SMALL[kind], Step(1.0, 1.0), BF16, Parallelism(tp_size=shards))
    for one, part in zip(alone, (op for op in shared if op.span == 1), strict=True):
        copies = part.stored_bytes * shards / one.stored_bytes if one.stored_bytes else 1.0
        whole = one.kind in ("elementwise", "rotary") or one.name in REPLICATED | {"position_embedding"}
        biased = one.name in ("attention_output", "mlp_down", "experts_down")
        assert (whole and copies in (1, shards)) or 1 <= copies < (1.03 if biased else 1 + 1e-9), one.name


@pytest.mark.parametrize("kind", SMALL)
def test_prefill_and_decode_hold_the_same_weights_and_cache(kind: str) -> None:
    prefill = forward(SMALL[kind], Step(2.0, 1000.0), BF16, ONE)
    decode = forward(SMALL[kind], Step(2.0, 1.0, 999.0, "decode"), BF16, ONE)
    for quantity in ("params", "stored_bytes", "cached_bytes"):
        totals = [sum(float(op.count * getattr(op, quantity)) for op in ops) for ops in (prefill, decode)]
        assert isclose(*totals, rel_tol=1e-12), quantity


@pytest.mark.parametrize("kind", SMALL)
@given(batch=st.lists(SIZES, min_size=1, max_size=5), tokens=SIZES, context=SIZES)
def test_an_array_gives_what_its_numbers_give(kind: str, batch: list[float], tokens: float, context: float) -> None:
    for phase, new in (("prefill", tokens), ("decode", 1.0)):
        array = forward(SMALL[kind], Step(np.array(batch), new, np.array(context), phase), BF16, ONE)
        for i, b in enumerate(batch):
            for one, many in zip(forward(SMALL[kind], Step(b, new, context, phase), BF16, ONE), array, strict=True):
                for quantity in ("flops", "bytes", "cached_bytes", "wire_bytes", "parallelism"):
                    value = np.broadcast_to(getattr(many, quantity), len(batch))[i]
                    assert isclose(value, getattr(one, quantity), rel_tol=1e-9), (one.name, quantity)


@pytest.mark.parametrize("kind", SMALL)
@given(tokens=SIZES, context=SIZES)
def test_more_tokens_are_never_less_work(kind: str, tokens: float, context: float) -> None:
    for quantity in ("flops", "bytes"):
        fewer, more = (
            sum(
                float(op.count * getattr(op, quantity)) for op in forward(SMALL[kind], Step(1.0, n, context), BF16, ONE)
            )
            for n in (tokens, tokens + 1)
        )
        assert more >= fewer


@given(tokens=st.floats(1, 1e4), experts=st.integers(1, 512), chosen=st.integers(1, 16))
def test_distinct_experts_are_between_one_tokens_and_all(tokens: float, experts: int, chosen: int) -> None:
    k = min(chosen, experts)
    touched = distinct_experts(tokens, experts, k)
    assert k * (1 - 1e-9) <= touched <= min(experts, k * tokens) * (1 + 1e-9)


@pytest.mark.parametrize(("experts", "chosen", "shape"), [(128, 8, 1.0), (256, 8, 1.0), (8, 2, 16.0)])
@pytest.mark.parametrize("tokens", [4, 16, 64])
def test_distinct_experts_by_drawing(experts: int, chosen: int, shape: float, tokens: int) -> None:
    """Tokens that choose experts of gamma-distributed popularity, without repetition, drawn 400 times.

    5 %: the formula lets a token choose a popular expert more than once.
    """
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        liking = np.log(random.gamma(shape, size=experts)) + random.gumbel(size=(tokens, experts))
        drawn.append(len(np.unique(np.argpartition(-liking, chosen - 1, axis=1)[:, :chosen])))
    assert isclose(np.mean(drawn), distinct_experts(float(tokens), experts, chosen), rel_tol=0.05)


@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 1), (8, 8), (4, 2), (1, 8), (2, 8)])
def test_experts_spread_over_gpus_are_held_once(tp: int, ep: int) -> None:
    model, step = SMALL["experts"], Step(4.0, 100.0)
    alone = [op for op in forward(model, step, BF16, ONE) if op.kind == "grouped_gemm"]
    ops = forward(model, step, BF16, Parallelism(tp_size=tp, ep_size=ep))
    spread = [op for op in ops if op.kind == "grouped_gemm"]
    gpus, replicas = max(tp, ep), max(ep / tp, 1)
    for one, part in zip(alone, spread, strict=True):
        assert isclose(part.stored_bytes * gpus, one.stored_bytes)
        assert isclose(float(part.flops) * gpus, float(one.flops) * replicas)  # each replica brings its own tokens
    sent = [op for op in ops if op.kind == "all_to_all"]
    assert (len(sent) == 2) == (ep > tp)


def test_an_uneven_router_loads_the_busiest_gpu() -> None:
    even, uneven = (
        forward(SMALL["experts"], Step(4.0, 100.0), BF16, Parallelism(ep_size=4, expert_imbalance=imbalance))
        for imbalance in (1.0, 1.5)
    )
    flops = [sum(float(op.flops) for op in ops if op.kind == "grouped_gemm") for ops in (even, uneven)]
    assert isclose(flops[1], 1.5 * flops[0])


@pytest.mark.parametrize("counted_before", [False, True])
def test_a_copy_with_other_shapes_is_counted_anew(counted_before: bool) -> None:
    """llama-3.1-8b with 16 of its 32 layers: two tables of 128,256 x 4,096 and 16 layers of 218,112,000 weights."""
    model = model_named("llama-3.1-8b")
    if counted_before:
        assert num_params(model) == 8_030_261_248
    half = model.model_copy(update={"num_hidden_layers": 16})
    assert num_params(half) == 2 * 128_256 * 4096 + 16 * 218_112_000 + 4096
    assert sum(half.layer_kinds.values()) == 16
    assert num_params(model) == 8_030_261_248


def test_a_copy_without_windows_caches_all_tokens() -> None:
    """gemma-2-9b: 42 layers of 8 KV heads of 256, keys and values of 2 bytes: 344,064 bytes per token."""
    model = model_named("gemma-2-9b")
    windowed = kv_bytes_per_token(model, BF16)
    full = model.model_copy(update={"sliding_window": None})
    assert windowed == 344_064 / 2
    assert kv_bytes_per_token(full, BF16) == 344_064
    assert model.decode_kinks != full.decode_kinks == ()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_stored_weight_has_a_part(name: str) -> None:
    ops = forward(MODELS[name], Step(1.0, 1.0), BF16, ONE)
    assert {op.part for op in ops if op.stored_bytes} <= set(PARTS)


def test_the_matrices_of_state_space_layers_are_not_attention() -> None:
    """Mamba-2 of 2 layers: 256 + 2 x 512 + 2 x 128 wide, one head for each 64 channels."""
    raw = {
        "model_type": "mamba2",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "vocab_size": 1000,
        "num_heads": 8,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 1,
        "architectures": ["Mamba2ForCausalLM"],
    }
    ops = forward(read_model(raw, "small"), Step(1.0, 1.0), BF16, ONE)
    held = {part: sum(float(op.count) * op.params for op in ops if op.part == part) for part in PARTS}
    channels = 512 + 2 * 128
    assert held["state_space"] == 2 * (256 * (512 + channels + 8) + channels * 5 + 3 * 8 + 512 * 256)
    assert held["attention"] == held["feed_forward"] == 0


@pytest.mark.parametrize("layout", [ONE, Parallelism(tp_size=2), Parallelism(cp_size=2)], ids=str)
def test_only_growing_operators_of_a_decode_step_depend_on_the_cached_tokens(layout: Parallelism) -> None:
    """`growing_ops` builds these alone for every decode step of an answer but the first."""
    checked = 0
    for model in MODELS.values():
        with contextlib.suppress(Unsupported):
            check_layout(layout, model)
            soon, late = (Step(4.0, 1.0, context, "decode") for context in (700.0, 9000.0))
            before, after = (forward(model, step, BF16, layout) for step in (soon, late))
            assert all(one == other for one, other in zip(before, after, strict=True) if not one.grows)
            assert growing_ops(model, late, BF16, layout) == [op for op in after if op.grows]
            checked += 1
    assert checked > 100


def test_active_parameters_leave_out_the_table_that_is_looked_up() -> None:
    """gpt-oss-120b: 5.13 billion, as published; its embedding table of 0.58 billion is not multiplied."""
    model = model_named("gpt-oss-120b")
    assert isclose(num_active_params(model), 5.13e9, rel_tol=0.002)
    tied, untied = (model.model_copy(update={"tie_word_embeddings": tied}) for tied in (True, False))
    assert num_active_params(tied) == num_active_params(untied)


def test_active_parameters_leave_out_the_layers_that_a_text_prompt_skips() -> None:
    """Llama 3.2 Vision 11B multiplies a token of text with the layers of Llama-3.1-8B."""
    assert num_active_params(model_named("llama-3.2-11b-vision")) == num_active_params(model_named("llama-3.1-8b"))


@pytest.mark.parametrize("layout", [ONE, Parallelism(tp_size=2)], ids=str)
def test_a_check_of_drafted_tokens_needs_the_logits_of_each(layout: Parallelism) -> None:
    """3 sequences with 4 drafted tokens and one more each: 15 rows of the head; a prefill needs the last 3 alone."""
    table = 4096 * 128_256
    for step, rows in ((Step(3.0, 5.0, 700.0, "decode"), 15), (Step(3.0, 5.0, 700.0), 3)):
        found = {op.name: op for op in forward(model_named("llama-3.1-8b"), step, BF16, layout)}
        assert found["output_head"].flops * layout.tp_size == 2 * rows * table
        if layout.tp_size > 1:
            assert found["logits_all_gather"].wire_bytes == rows * 128_256 * 2 / 2


@pytest.mark.parametrize(("name", "streams"), [("llama-3.1-8b", 1), ("deepseek-v4-flash", 4), ("gemma-3n-e4b", 4)])
def test_a_pipeline_stage_sends_every_residual_stream(name: str, streams: int) -> None:
    """Hyper-connections and AltUp keep four streams, each as wide as the hidden size."""
    model = model_named(name)
    ops = forward(model, Step(2.0, 100.0), BF16, Parallelism(pp_size=2))
    assert [op.wire_bytes for op in ops if op.name == "stage_send"] == [200 * streams * model.hidden_size * 2]


def test_a_norm_over_all_heads_needs_an_all_reduce_under_tensor_parallelism() -> None:
    """MiniMax-M2 norms queries and keys over all heads: the GPUs add two sums of squares of each token, in fp32."""
    step = Step(4.0, 1.0, 100.0, "decode")
    full = get_model("llama-2-7b").model_copy(update={"qk_norm": "full"})
    for model, tp, expected in ((full, 2, 1), (full, 1, 0), (full.model_copy(update={"qk_norm": "head"}), 2, 0)):
        ops = forward(model, step, get_dtypes("bf16"), Parallelism(tp_size=tp))
        found = [op for op in ops if op.name == "qk_norm_all_reduce"]
        assert len(found) == expected
        assert all(op.wire_bytes == 4 * 8 for op in found)
