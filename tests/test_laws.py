"""Laws that hold for all numbers: monotonicity in hardware and workload, conservation of work, arrays."""

from functools import cache
from math import inf, isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import GPU, LLMAnalysis, Op, Parallelism, Step, get_dtypes, get_gpu, get_model
from llm_analysis.hardware.roofline import IDEAL, Efficiency, cost, pass_seconds
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.workload import Workload, nodes
from llm_analysis.models.forward import forward, num_params, stage_ops
from llm_analysis.physics.attention import visible_pairs

# Multi-head and grouped-query; learned positions; windows on all layers and on some; experts; latent attention.
DENSE = ("llama-2-7b", "llama-3.1-70b", "opt-13b", "qwen2.5-7b", "test-13b")
WINDOWED = ("mistral-7b-v0.1", "gemma-2-9b", "gemma-3-4b", "starcoder2-7b")
SPARSE = ("mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b")
MODELS = DENSE + WINDOWED + SPARSE
GPUS = ("a100-sxm-80gb", "h100-sxm-80gb", "l4-24gb", "t4", "mi300x-192gb")
DTYPES = ("w16a16e16", "w4a16e16", "w8a8e16", "w16a16e16kv8")
# Rounding may make a growing sum slightly smaller: a double has 15.9 digits, a pass adds about 20 terms.
ROUNDING = 1e-13

models = st.sampled_from(MODELS)
gpus = st.sampled_from(GPUS)
dtypes = st.sampled_from(DTYPES)
methods = st.sampled_from(["ideal", "published"])
batches = st.integers(1, 512)
prompts = st.integers(1, 2000)
lengths = st.integers(1, 600)
factors = st.floats(1.0, 100.0)


@cache
def analysis(model: str, gpu: str, dtype: str = "w16a16e16", layout: Parallelism = Parallelism()) -> LLMAnalysis:  # noqa: B008
    return LLMAnalysis(get_model(model), get_gpu(gpu), get_dtypes(dtype), layout, method="ideal")


def ops_of(model: str, step: Step, layout: Parallelism | None = None) -> list[Op]:
    return forward(get_model(model), step, get_dtypes("bf16"), layout or Parallelism())


def total(ops: list[Op], field: str, *kinds: str) -> float:
    return sum(float(op.count * getattr(op, field)) for op in ops if not kinds or op.kind in kinds)


def not_faster(slow: Estimate, fast: Estimate) -> bool:
    words = ("prefill_latency", "decode_latency", "total_latency")
    return all(getattr(slow, word) >= getattr(fast, word) * (1 - ROUNDING) for word in words)


# Hardware


@given(model=st.sampled_from(DENSE), gpu=gpus, method=methods, factor=factors, b=batches, s=prompts, n=lengths)
@pytest.mark.parametrize("what", ["memory_bandwidth", "peak_flops", "link_bandwidth"])
def test_better_hardware_is_never_slower(
    what: str, model: str, gpu: str, method: str, factor: float, b: int, s: int, n: int
) -> None:
    old = get_gpu(gpu)
    if what == "peak_flops":
        new = old.model_copy(update={what: {rate: factor * peak for rate, peak in old.peak_flops.items()}})
    else:
        new = old.model_copy(update={what: factor * getattr(old, what)})
    layout = Parallelism(tp_size=2 if model != "qwen2.5-7b" else 4)

    def answer(hardware: GPU) -> Estimate:
        asked = LLMAnalysis(get_model(model), hardware, parallelism_config=layout, method=method)
        return asked.inference(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)

    assert not_faster(answer(old), answer(new))


FRACTIONS = st.floats(0.01, 1.0)


@given(
    efficiency=st.builds(
        Efficiency,
        launch=st.floats(0, 1e-4),
        flops=FRACTIONS,
        memory=FRACTIONS,
        sharpness=st.floats(1.0, 20.0) | st.just(inf),
        fill=st.floats(0, 1e4),
        latency=st.floats(0, 1e-4),
        link=FRACTIONS,
    ),
    model=models,
    b=batches,
    s=prompts,
)
def test_no_operator_is_faster_than_light(efficiency: Efficiency, model: str, b: int, s: int) -> None:
    gpu, dtype = get_gpu("a100-sxm-80gb"), get_dtypes("bf16")
    layout = Parallelism(tp_size=2)
    for op in forward(get_model(model), Step(float(b), float(s)), dtype, layout):
        light = cost(op, gpu, IDEAL).seconds
        assert cost(op, gpu, efficiency).seconds >= light * (1 - ROUNDING)


@given(
    flops=st.floats(0.05, 1.0), memory=st.floats(0.05, 1.0), less=st.floats(0.1, 1.0), tp=st.sampled_from([1, 2, 4, 8])
)
def test_a_lower_efficiency_is_never_faster(flops: float, memory: float, less: float, tp: int) -> None:
    def answer(f: float, m: float) -> Estimate:
        arguments = get_model("test-13b"), get_gpu("a100-sxm-40gb"), None, Parallelism(tp_size=tp)
        return LLMAnalysis(*arguments, flops_efficiency=f, hbm_memory_efficiency=m).inference()

    assert not_faster(answer(flops * less, memory), answer(flops, memory))
    assert not_faster(answer(flops, memory * less), answer(flops, memory))


# Workload


@given(model=models, gpu=gpus, dtype=dtypes, b=batches, s=prompts, n=lengths, more=st.integers(1, 2000))
def test_a_longer_prompt_is_never_faster(model: str, gpu: str, dtype: str, b: int, s: int, n: int, more: int) -> None:
    ask = analysis(model, gpu, dtype).inference
    limit = get_model(model).max_position_embeddings
    short = ask(batch_size_per_gpu=b, seq_len=min(s, limit), num_tokens_to_generate=n)
    long = ask(batch_size_per_gpu=b, seq_len=min(s + more, limit), num_tokens_to_generate=n)
    assert not_faster(long, short)


@given(model=models, gpu=gpus, dtype=dtypes, b=batches, s=prompts, n=lengths, more=st.integers(1, 512))
def test_a_bigger_batch_takes_longer_but_not_per_sequence(
    model: str, gpu: str, dtype: str, b: int, s: int, n: int, more: int
) -> None:
    ask = analysis(model, gpu, dtype).inference
    small = ask(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)
    large = ask(batch_size_per_gpu=b + more, seq_len=s, num_tokens_to_generate=n)
    assert not_faster(large, small)
    assert large.total_tokens_per_sec >= small.total_tokens_per_sec * (1 - ROUNDING)


@given(model=models, b=batches, s=prompts, n=st.integers(1, 599))
def test_one_more_token_takes_longer(model: str, b: int, s: int, n: int) -> None:
    ask = analysis(model, "a100-sxm-80gb").inference
    shorter = ask(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)
    longer = ask(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n + 1)
    assert longer.total_latency > shorter.total_latency


@given(model=st.sampled_from(DENSE + WINDOWED), b=st.integers(1, 64), s=prompts, n=st.integers(2, 200))
def test_a_cache_is_never_slower_than_none(model: str, b: int, s: int, n: int) -> None:
    ask = analysis(model, "a100-sxm-80gb").inference
    with_cache = ask(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)
    without = ask(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n, use_kv_cache=False)
    assert without.decode_latency >= with_cache.decode_latency * (1 - ROUNDING)
    assert without.kv_cache_memory_per_gpu == 0 < with_cache.kv_cache_memory_per_gpu


@given(model=models, gpu=gpus, b=batches, context=prompts)
def test_weights_of_fewer_bits_are_never_slower_to_decode(model: str, gpu: str, b: int, context: int) -> None:
    step = Step(float(b), 1.0, float(context), "decode")
    wide, narrow = (float(analysis(model, gpu, dtype).seconds(step)) for dtype in ("w16a16e16", "w4a16e16"))
    assert narrow <= wide * (1 + ROUNDING)


# Conservation of work


@given(model=models, b=batches, s=prompts)
def test_one_gpu_sends_nothing(model: str, b: int, s: int) -> None:
    ops = ops_of(model, Step(float(b), float(s)))
    assert total(ops, "wire_bytes") == total(ops, "messages") == 0
    assert {op.span for op in ops} == {1}
    answer = analysis(model, "a100-sxm-80gb").inference(batch_size_per_gpu=b, seq_len=s)
    assert all(row.network_seconds == row.wire_bytes == 0 for row in answer.operators)


@given(model=st.sampled_from(DENSE + WINDOWED), b=batches, s=prompts, data=st.data())
def test_tensor_parallelism_conserves_the_flop_of_matrices_and_attention(
    model: str, b: int, s: int, data: st.DataObject
) -> None:
    """Up to one KV head per GPU; beyond that, several GPUs compute the same KV projections."""
    m = get_model(model)
    sizes = [t for t in (2, 4, 5, 8, 10, 20, 32, 40) if m.num_key_value_heads % t == 0]
    t = data.draw(st.sampled_from(sizes))
    for step in (Step(float(b), float(s)), Step(float(b), 1.0, float(s), "decode")):
        alone, shared = ops_of(model, step), ops_of(model, step, Parallelism(tp_size=t))
        for kinds in (("gemm",), ("prefill_attention", "decode_attention")):
            # Shares are divided and multiplied again, with a few roundings.
            assert isclose(t * total(shared, "flops", *kinds), total(alone, "flops", *kinds), rel_tol=1e-12)


@given(model=models, b=batches, first=prompts, second=prompts)
def test_a_prompt_in_two_pieces_is_the_same_work(model: str, b: int, first: int, second: int) -> None:
    whole = ops_of(model, Step(float(b), float(first + second)))
    pieces = ops_of(model, Step(float(b), float(first))) + ops_of(model, Step(float(b), float(second), float(first)))
    kinds = {op.kind for op in whole if op.kind.startswith("prefill")}
    # The pairs of the second piece are the difference of two large numbers, so digits cancel.
    assert isclose(total(whole, "flops", *kinds), total(pieces, "flops", *kinds), rel_tol=1e-9)
    head = [op.flops for op in whole if op.name == "output_head"]
    once_more = total(pieces, "flops", "gemm") - sum(map(float, head))  # each piece ends in logits
    if model not in SPARSE:
        assert isclose(total(whole, "flops", "gemm"), once_more, rel_tol=1e-9)


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-3.1-70b"])
def test_a_token_takes_two_flop_per_active_parameter(model: str) -> None:
    m = get_model(model)
    norms, table = (2 * m.num_hidden_layers + 1) * m.hidden_size, m.vocab_size * m.hidden_size
    flop = total(ops_of(model, Step(1.0, 1.0, 100.0, "decode")), "flops", "gemm")
    assert flop == 2 * (num_params(m) - norms - table)


@given(tokens=st.integers(0, 300), window=st.integers(1, 400), chunk=st.integers(1, 400))
def test_the_number_of_query_key_pairs_is_that_of_the_mask(tokens: int, window: int, chunk: int) -> None:
    query, key = np.indices((tokens, tokens))
    causal = key <= query
    assert visible_pairs(float(tokens)) == causal.sum()
    assert visible_pairs(float(tokens), window=float(window)) == (causal & (query - key < window)).sum()
    assert visible_pairs(float(tokens), chunk=float(chunk)) == (causal & (query // chunk == key // chunk)).sum()


# Layouts


@given(layers=st.integers(1, 130), data=st.data())
def test_stages_cover_all_layers_evenly(layers: int, data: st.DataObject) -> None:
    stages = Parallelism(pp_size=data.draw(st.integers(1, layers))).stages(layers)
    assert [layer for first, last in stages for layer in range(first, last)] == list(range(layers))
    sizes = [last - first for first, last in stages]
    assert max(sizes) - min(sizes) <= 1


@given(model=models, pp=st.integers(1, 8), b=batches, s=prompts)
def test_a_pipeline_runs_the_operators_of_one_gpu(model: str, pp: int, b: int, s: int) -> None:
    m, step, dtype, layout = get_model(model), Step(float(b), float(s)), get_dtypes("bf16"), Parallelism(pp_size=pp)
    stages = [stage_ops(m, step, dtype, layout, *span) for span in layout.stages(m.num_hidden_layers)]
    alone = ops_of(model, step)
    for field in ("flops", "weight_bytes", "activation_bytes", "kv_bytes", "cached_bytes", "params"):
        parts = sum(total(ops, field) for ops in stages)
        assert isclose(parts, total(alone, field), rel_tol=1e-12)


@given(model=models, pp=st.integers(2, 8), s=prompts, n=lengths)
def test_a_pipeline_does_not_make_a_single_request_faster(model: str, pp: int, s: int, n: int) -> None:
    """It can make a batch faster: micro-batches keep several stages busy."""
    one = analysis(model, "a100-sxm-80gb")
    many = analysis(model, "a100-sxm-80gb", layout=Parallelism(pp_size=pp))
    question = {"batch_size_per_gpu": 1, "seq_len": s, "num_tokens_to_generate": n}
    assert not_faster(many.inference(**question), one.inference(**question))  # type: ignore[arg-type]


@given(model=models, dp=st.integers(2, 64), b=batches, s=prompts, n=lengths)
def test_replicas_add_throughput_and_do_not_change_latency(model: str, dp: int, b: int, s: int, n: int) -> None:
    layout = Parallelism(dp_size=dp)
    one, many = (
        found.inference(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)
        for found in (analysis(model, "a100-sxm-80gb"), analysis(model, "a100-sxm-80gb", layout=layout))
    )
    for word in ("prefill_latency", "decode_latency", "total_latency", "request_tokens_per_sec", "fits"):
        assert getattr(one, word) == getattr(many, word)
    for word in ("prefill_tokens_per_sec", "decode_tokens_per_sec", "total_tokens_per_sec"):
        assert isclose(dp * getattr(one, word), getattr(many, word), rel_tol=1e-12)
    assert many.num_gpus == dp


# Arithmetic

AXES = st.lists(st.floats(1.0, 1e5), min_size=1, max_size=6)


@given(model=models, gpu=gpus, dtype=dtypes, tp=st.sampled_from([1, 2]), b=AXES, q=AXES, c=AXES, decode=st.booleans())
def test_array_elements_equal_scalars(
    model: str, gpu: str, dtype: str, tp: int, b: list[float], q: list[float], c: list[float], decode: bool
) -> None:
    """1e-12, because sums of powers may differ in the last digits between numpy and Python."""
    ask = analysis(model, gpu, dtype, Parallelism(tp_size=tp))
    size = min(len(b), len(q), len(c))
    new = [1.0] * size if decode else q[:size]
    context = c[:size] if decode else [0.0] * size
    phase = "decode" if decode else "prefill"
    points = list(zip(b[:size], new, context, strict=True))
    together = np.asarray(ask.seconds(Step(np.array(b[:size]), np.array(new), np.array(context), phase)))
    alone = [float(ask.seconds(Step(*point, phase))) for point in points]
    np.testing.assert_allclose(np.broadcast_to(together, size), alone, rtol=1e-12, atol=0)


def test_axes_broadcast_and_stay_floats() -> None:
    ask = analysis("llama-3.1-8b", "h100-sxm-80gb")
    grid = np.asarray(ask.seconds(Step(np.array([[1.0], [8.0]]), np.array([128.0, 512.0, 2048.0]))))
    assert grid.shape == (2, 3)
    assert grid[1, 2] == pytest.approx(float(ask.seconds(Step(8.0, 2048.0))), rel=1e-12)
    assert np.all(np.diff(grid, axis=1) > 0)


@given(first=st.integers(0, 10**5), count=st.integers(1, 5000), kinks=st.lists(st.floats(0, 1e5), max_size=5))
def test_quadrature_weights_sum_to_one_and_average_lines_exactly(first: int, count: int, kinks: list[float]) -> None:
    """The weights sum to 1, and the average of a line is exact."""
    pairs = list(nodes(first, count, kinks))
    assert sum(weight for weight, _ in pairs) == pytest.approx(1, rel=1e-12)
    assert sum(weight * x for weight, x in pairs) == pytest.approx(first + (count - 1) / 2, rel=1e-9, abs=1e-9)


def loop(ask: LLMAnalysis, b: int, s: int, n: int, cache: bool) -> float:
    """Return the mean decode step, computed step by step: the i-th sees s + i cached tokens."""
    seen = np.arange(max(n - 1, 1), dtype=float) + s
    steps = Step(float(b), 1.0, seen, "decode") if cache else Step(float(b), seen + 1)
    return float(np.mean(np.broadcast_to(np.asarray(ask.seconds(steps)), len(seen))))


# With a cache, the time of a step is linear in the context between kinks, and quadrature of a line is exact up to
# rounding. Without one it is piecewise quadratic, with corners where the bound of an operator changes.
QUADRATURE = {True: 1e-12, False: 1e-3}


@given(model=models, gpu=gpus, b=batches, s=prompts, n=st.sampled_from([1, 2, 3, 17, 500, 5000]), cache=st.booleans())
def test_the_sum_over_decode_steps_equals_a_loop_over_tokens(
    model: str, gpu: str, b: int, s: int, n: int, cache: bool
) -> None:
    ask = analysis(model, gpu)
    workload = Workload(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n, use_kv_cache=cache)
    found = float(pass_seconds(ask.estimate(workload).basis.decode))
    assert found == pytest.approx(loop(ask, b, s, n, cache), rel=QUADRATURE[cache])


@pytest.mark.parametrize("model", [*WINDOWED, "gpt-oss-20b", "llama-4-scout", "phi-3-mini-4k"])
@pytest.mark.parametrize("n", [1, 2, 3, 4000])
def test_the_sum_over_decode_steps_where_a_window_fills(model: str, n: int) -> None:
    m, ask = get_model(model), analysis(model, "a100-sxm-80gb")
    window = m.sliding_window or 8192
    for s in {max(window - 3000, 1), window - 1, min(window, m.max_position_embeddings)}:
        for b in (1, 64):
            workload = Workload(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)
            found = float(pass_seconds(ask.estimate(workload).basis.decode))
            assert found == pytest.approx(loop(ask, b, s, n, True), rel=QUADRATURE[True])


@given(model=models, b=batches, s=prompts, n=lengths)
def test_the_total_follows_its_stated_definition(model: str, b: int, s: int, n: int) -> None:
    answer = analysis(model, "a100-sxm-80gb").inference(batch_size_per_gpu=b, seq_len=s, num_tokens_to_generate=n)
    assert answer.total_latency_is == "prefill + (n - 1) * decode"
    assert answer.total_decode_latency == (n - 1) * answer.decode_latency
    assert answer.total_latency == answer.prefill_latency + answer.total_decode_latency
    assert isclose(answer.total_per_token_latency * n, answer.total_latency, rel_tol=1e-12)
    assert isclose(answer.total_tokens_per_sec * answer.total_latency, b * n, rel_tol=1e-12)
