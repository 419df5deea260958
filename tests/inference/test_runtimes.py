"""Runtimes: each file is complete and has its evidence; the terms of a runtime only add time."""

import json
from functools import cache
from pathlib import Path

import pytest
from conftest import Ask
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, LLMAnalysisError, Parallelism, Step, get_dtypes, get_gpu, get_model
from llm_analysis.calibration.fitting.runtime_fit import CUDA_CORES, FACTORS, FP4, SECONDS, SM_BYTES, TERMS
from llm_analysis.calibration.measurements import EVIDENCE, read_measurements
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.hardware.roofline import Efficiency, cost
from llm_analysis.inference.bands import band_for, cell_name, cells
from llm_analysis.inference.methods import Calibrated
from llm_analysis.inference.runtimes import (
    DEFAULT_RUNTIME,
    FOLDER,
    NONE,
    Band,
    Runtime,
    RuntimeEvidence,
    get_runtime,
    runtime_for_version,
    runtime_names,
    runtime_notes,
)
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.forward import forward
from llm_analysis.models.layers.kinds import MIXERS, base_name
from llm_analysis.physics.operators import matmul

WANTED = {
    "fastertransformer",
    "tensorrt-llm",
    "vllm",
    "vllm-v1",
    "sglang",
    "lmdeploy",
    "gpt-fast",
    "llama.cpp",
    "hf-transformers",
    "hf-transformers-4.35",
    "none",
}
MODELS = ("llama-2-7b", "mixtral-8x7b", "opt-13b")
GPUS = ("a100-sxm-80gb", "h100-sxm-80gb", "l40s-48gb", "mi300x-192gb")
names = st.sampled_from(sorted(runtime_names()))
seconds = st.sampled_from(sorted(SECONDS))


@cache
def analysis(model: str, gpu: str, tp_size: int, runtime: Runtime | str) -> LLMAnalysis:
    used = get_runtime(runtime) if isinstance(runtime, str) else runtime
    parts = get_model(model), get_gpu(gpu), get_dtypes("bf16"), Parallelism(tp_size=tp_size)
    return LLMAnalysis(*parts, method="calibrated", runtime=used)


def latencies(model: str, gpu: str, tp_size: int, runtime: Runtime | str, batch: int) -> tuple[float, float]:
    """Prefill and decode, in seconds."""
    e = analysis(model, gpu, tp_size, runtime).inference(
        batch_size_per_gpu=batch, seq_len=256, num_tokens_to_generate=16
    )
    return e.prefill_latency, e.decode_latency


def test_all_runtimes_are_there() -> None:
    assert set(runtime_names()) >= WANTED
    assert DEFAULT_RUNTIME in WANTED


@pytest.mark.parametrize("name", sorted(runtime_names()))
def test_every_runtime_has_its_evidence(name: str) -> None:
    runtime = get_runtime(name)
    assert runtime.name == name
    if name == "none":
        assert runtime == NONE
        return
    evidence = runtime.evidence
    assert evidence.note or (evidence.rows == sum(evidence.sources.values()) > 0)
    assert not evidence.rows or None not in (evidence.median_error, evidence.p90_error, evidence.bias)
    assert runtime.date


@pytest.mark.parametrize(
    ("gpu", "measured"),
    [("a100-sxm-80gb", True), ("a100-sxm-40gb", True), ("h200-sxm-141gb", True), ("a10-24gb", False), ("t4", False)],
)
def test_a_chip_counts_as_measured_by_its_architecture_and_number_of_sms(gpu: str, measured: bool) -> None:
    assert same_chip(get_gpu(gpu)) == measured


@pytest.mark.parametrize("name", sorted(runtime_names()))
def test_terms_held_out_are_terms_of_the_fit(name: str) -> None:
    runtime = get_runtime(name)
    for fold, terms in runtime.held_out.items():
        source, gpu, *model = fold.split(" | ")
        assert source in runtime.evidence.sources
        assert set(terms) <= {*TERMS, CUDA_CORES, SM_BYTES, FP4}
        assert Runtime(**(runtime.model_dump() | terms)) == runtime.without(source, gpu, *(model or [""]))


def test_an_unknown_fold_changes_nothing() -> None:
    runtime = get_runtime("vllm")
    assert runtime.without("nobody", "a100-sxm-80gb", "llama-2-7b") == runtime


@given(
    st.sampled_from(MODELS),
    st.sampled_from(GPUS),
    st.sampled_from((1, 2, 4)),
    names,
    seconds,
    st.sampled_from((1, 8, 64)),
    st.sampled_from((1e-6, 1e-4, 5e-3)),
)
def test_more_host_time_is_never_faster(
    model: str, gpu: str, tp_size: int, name: str, term: str, batch: int, more: float
) -> None:
    runtime = get_runtime(name).model_copy(update={"name": "mine"})
    slower = runtime.model_copy(update={term: getattr(runtime, term) + more})
    before = latencies(model, gpu, tp_size, key(runtime), batch)
    after = latencies(model, gpu, tp_size, key(slower), batch)
    assert after[0] >= before[0]
    assert after[1] >= before[1]


def key(runtime: Runtime) -> Runtime:
    """A runtime that can be remembered: without what an estimate does not need."""
    return HashableRuntime(**runtime.model_copy(update={"bands": {}, "held_out": {}}).model_dump())


class HashableRuntime(Runtime):
    def __hash__(self) -> int:
        return hash(self.model_dump_json())


@given(st.sampled_from(MODELS), st.sampled_from(GPUS), st.sampled_from((1, 2, 4)), names, st.sampled_from((1, 8, 64)))
def test_bare_kernels_are_never_slower_than_a_runtime(
    model: str, gpu: str, tp_size: int, name: str, batch: int
) -> None:
    """The terms of a fit add time. A factor above 1 belongs to GPUs without measured kernels, so both have it."""
    faster = {factor: max(getattr(get_runtime(name), factor), 1.0) for factor in FACTORS}
    bare = latencies(model, gpu, tp_size, key(NONE.model_copy(update=FACTS.get(name, {}) | faster)), batch)
    under = latencies(model, gpu, tp_size, name, batch)
    assert all(b <= u * (1 + 1e-12) for b, u in zip(bare, under, strict=True))


FACTS = {
    name: {fact: getattr(get_runtime(name), fact) for fact in ("collective", "narrow_launch")}
    for name in runtime_names()
}


@given(st.sampled_from(MODELS), st.sampled_from(GPUS[:3]), st.sampled_from((1, 4)), names, st.sampled_from((1, 64)))
def test_the_ideal_is_a_lower_bound(model: str, gpu: str, tp_size: int, name: str, batch: int) -> None:
    ideal = LLMAnalysis(
        get_model(model), get_gpu(gpu), get_dtypes("bf16"), Parallelism(tp_size=tp_size), method="ideal"
    ).inference(batch_size_per_gpu=batch, seq_len=256, num_tokens_to_generate=16)
    prefill, decode = latencies(model, gpu, tp_size, name, batch)
    # Fused kernels save element-wise traffic that the ideal counts kernel by kernel.
    assert ideal.prefill_latency <= prefill * 1.02
    assert ideal.decode_latency <= decode * 1.02


def test_an_amd_gpu_takes_the_port_of_a_runtime() -> None:
    port = get_runtime("vllm-rocm")
    assert analysis("llama-2-7b", "mi300x-192gb", 1, "vllm").runtime == port
    assert analysis("llama-2-7b", "a100-sxm-80gb", 1, "vllm").runtime == get_runtime("vllm")
    assert analysis("llama-2-7b", "mi250-128gb", 1, "vllm").runtime == get_runtime("vllm-mi200")
    assert analysis("llama-2-7b", "mi300x-192gb", 1, "vllm-v1").runtime == get_runtime("vllm-v1")
    assert analysis("llama-2-7b", "mi300x-192gb", 1, "tensorrt-llm").runtime == get_runtime("tensorrt-llm")


@pytest.mark.parametrize(("gpu_name", "bound"), [("a100-sxm-80gb", True), ("l40s-48gb", False), ("gaudi2", False)])
def test_sms_bound_the_bandwidth_of_16_bit_weights(gpu_name: str, bound: bool) -> None:
    """5 bytes per clock on 108 SMs at 1.41 GHz are 0.76 of 2.0 TB/s; on an L40S (142, 2.52 GHz) 1.8 of 0.86 TB/s."""
    gpu = get_gpu(gpu_name)
    clocks = float(gpu.num_sms or 0) * float(gpu.boost_clock_hz or 0)
    op = matmul("weights", 1.0, 8192.0, 8192.0, get_dtypes("bf16").on(gpu.peak_flops, gpu_name).linear)
    numbers = Efficiency(launch=0.0, flops=1.0, memory=0.9)
    found = Runtime(name="own", sm_bytes=5.0).adjusted(op, gpu, numbers, 0.0).memory
    assert found == pytest.approx(5.0 * clocks / gpu.memory_bandwidth if bound else 0.9)


@pytest.mark.parametrize(("tp_size", "collectives"), [(1, 0), (2, 0), (4, 66), (8, 66)])
def test_collectives_within_a_package_take_no_added_time(tp_size: int, collectives: int) -> None:
    """A package of an MI250 has two dies. Llama-2-7B has two all-reduces in each of 32 layers and two at its ends."""
    parts = get_model("llama-2-7b"), get_gpu("mi250-128gb"), get_dtypes("bf16"), Parallelism(tp_size=tp_size)
    runtimes = (Runtime(name="bare"), Runtime(name="added", collective_seconds=1e-3))
    fast, slow = (LLMAnalysis(*parts, method="calibrated", runtime=runtime).inference() for runtime in runtimes)
    assert slow.decode_latency - fast.decode_latency == pytest.approx(collectives * 1e-3)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vllm-0.20", "vllm-v1"),
        ("vLLM==0.9.1", "vllm-0.13"),
        ("vllm_0.6", "vllm"),
        ("vllm-mi200-0.6", "vllm-mi200"),
        ("tensorrt-llm-1.2", "tensorrt-llm"),
    ],
)
def test_an_engine_with_a_version_is_refused_with_its_runtime(ask: Ask, name: str, found: str) -> None:
    answer = ask("infer", "--model_name", "llama-2-7b", "--gpu_name", "a100-sxm-80gb", "--runtime", name)
    assert answer.status == 1
    assert answer.err.rstrip().endswith(f"this version is runtime {found}")


def test_a_quantized_model_of_fewer_bits_decodes_faster_in_llama_cpp() -> None:
    """Also on an A100, where the SMs limit the bandwidth of 16-bit weights."""
    parts = get_model("llama-3.1-8b"), get_gpu("a100-sxm-80gb")
    formats = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "bf16")
    runtime = get_runtime("llama.cpp")
    decode = [
        LLMAnalysis(*parts, get_dtypes(name), method="calibrated", runtime=runtime).inference().decode_latency
        for name in formats
    ]
    assert decode == sorted(decode)


def test_a_factor_above_1_does_not_apply_on_a_gpu_with_measured_kernels() -> None:
    numbers, dtypes = Efficiency(memory=0.8), get_dtypes("bf16")
    fast = Runtime(name="fast", matmul_memory=1.2, decode_attention=1.2)
    for gpu_name, memory in (("h100-sxm-80gb", 0.8), ("gaudi2", 0.96)):
        gpu = get_gpu(gpu_name)
        op = matmul("weights", 1.0, 8192.0, 8192.0, dtypes.on(gpu.peak_flops, gpu_name).linear)
        assert fast.adjusted(op, gpu, numbers, 0.0).memory == pytest.approx(memory)


def test_a_users_runtime_file_named_vllm_is_used_on_an_amd_gpu(ask: Ask, tmp_path: Path) -> None:
    """The port belongs to the package's own runtime, not to the name."""
    path = tmp_path / "vllm.json"
    path.write_text('{"name": "vllm", "step_seconds": 0.5}')
    question = ["infer", "--model_name", "llama-2-7b", "--gpu_name", "mi300x-192gb", "--format", "json"]
    answer = json.loads(ask(*question, "--runtime", str(path)).out)
    assert answer["runtime"] == "vllm"
    assert answer["decode_latency"] > 0.5


@pytest.mark.parametrize(
    ("model", "runtime", "layers"),
    [("mamba2-2.7b", "vllm-v1", "state-space layers"), ("llama-3.1-8b", "vllm-v1", ""), ("jamba", "none", "")],
)
def test_an_answer_names_a_kind_of_layer_without_published_latencies(model: str, runtime: str, layers: str) -> None:
    kind = "mamba2" if model != "llama-3.1-8b" else "full_attention"
    made = get_model("llama-3.1-8b").model_copy(update={"layer_types": (kind,) * 32})
    notes = [note for note in runtime_notes(get_runtime(runtime), made) if note.startswith("no published measurement")]
    assert [note.endswith(f"{layers}, so errors may be larger") for note in notes] == [True] * bool(layers)


def test_a_batch_larger_than_those_of_the_fit_is_noted() -> None:
    runtime = get_runtime("vllm-v1").model_copy(update={"sequence_seconds": 1e-5})
    largest = runtime.evidence.largest_batch
    assert largest
    model = get_model("llama-3.1-8b")
    assert not [n for n in runtime_notes(runtime, model, largest) if "was fitted to batches" in n]
    assert [n for n in runtime_notes(runtime, model, 2 * largest) if "was fitted to batches" in n]


def test_an_engine_that_accumulates_in_fp16_uses_the_second_peak_of_a_geforce() -> None:
    """16-bit products take half the time on an RTX 3090 (71 and 142 TFLOP/s), and as long as before on an A100."""
    fast = NONE.model_copy(update={"name": "fast", "fp16_accumulate": True})
    op = matmul("x", 8192.0, 8192.0, 8192.0, get_dtypes("fp16").linear)
    for name, gain in (("rtx-3090", 2.0), ("a100-sxm-80gb", 1.0)):
        gpu = get_gpu(name)
        plain, twice = (cost(op, gpu, Calibrated(gpu, runtime).efficiency(op)).compute for runtime in (NONE, fast))
        assert plain / twice == pytest.approx(gain)
    bf16 = matmul("x", 8192.0, 8192.0, 8192.0, get_dtypes("bf16").linear)
    gpu = get_gpu("rtx-3090")
    assert Calibrated(gpu, fast).efficiency(bf16) == Calibrated(gpu, NONE).efficiency(bf16)


def test_layers_called_unpublished_have_no_published_measurement() -> None:
    published = {m.model_name for m in read_measurements(EVIDENCE)[0]}
    kinds = {mixer for name in published for mixer, _ in get_model(name).layer_kinds}
    assert not [kind for kind in kinds if MIXERS[base_name(kind)].unpublished]


@pytest.mark.parametrize(
    ("engine", "version", "runtime"),
    [
        ("vllm", "0.7.3", "vllm"),
        ("vllm", "0.8", "vllm-0.13"),
        ("vllm", "v0.8.5", "vllm-0.13"),
        ("vllm", "0.10 (2025-08)", "vllm-0.13"),
        ("vllm", "0.14.0", "vllm-v1"),
        ("vllm", "1.0.0", "vllm-v1"),
        ("vllm", "0.2.6+PR (custom all-reduce)", "vllm-0.2"),
        ("vllm", "0.3.3 (2024-03) main", "vllm"),
        ("vllm", "2023-10", "vllm"),
        ("vllm", "2024.05", "vllm"),
        ("vllm", "V0.9.1", "vllm-0.13"),
        ("vllm", "vLLM 0.9.1", "vllm-0.13"),
        ("vllm", "", "vllm"),
        ("vllm-v1", "v0.11.0", "vllm-0.13"),
        ("vllm-v1", "0.20.1", "vllm-v1"),
        ("vllm-v1", "", "vllm-v1"),
        ("tensorrt-llm", "0.5.0", "tensorrt-llm-0.6"),
        ("tensorrt-llm", "0.6/0.7 (2023-12)", "tensorrt-llm-0.6"),
        ("tensorrt-llm", "0.7a", "tensorrt-llm-0.9"),
        ("tensorrt-llm", "0.9.0", "tensorrt-llm-0.9"),
        ("tensorrt-llm", "0.10.0", "tensorrt-llm-0.20"),
        ("tensorrt-llm", "1.2.0rc2", "tensorrt-llm"),
        ("tensorrt-llm", "", "tensorrt-llm"),
        ("sglang", "0.4.6.post1", "sglang"),
    ],
)
def test_a_version_of_an_engine_gives_its_runtime(engine: str, version: str, runtime: str) -> None:
    assert runtime_for_version(engine, version) == runtime
    assert runtime in runtime_names()


def test_an_attention_on_cuda_cores_costs_grouped_queries_most_and_groups_with_a_kernel_nothing() -> None:
    """llama-3-8b has 4 query heads per KV head, llama-2-70b 8; of llama-2-7b, with 1, the memory is the limit."""
    plain, old = key(NONE), key(Runtime(name="old", cuda_core_flops=32.0, tensor_core_groups=[8]))
    for model, tp_size, slower in (("llama-3-8b", 1, True), ("llama-2-70b", 4, False), ("llama-2-7b", 1, False)):
        step = Step(64.0, 1.0, 2000.0, "decode")
        of_plain, of_old = (float(analysis(model, "h100-sxm-80gb", tp_size, r).seconds(step)) for r in (plain, old))
        assert of_old > of_plain * 1.15 if slower else of_old <= of_plain * 1.02


def test_an_attention_of_several_kernels_moves_its_scores() -> None:
    """Prefill of 4,096 tokens by 32 heads in 32 layers: 4096 * 4097 / 2 scores each, of 16 bytes."""

    def memory(runtime: Runtime) -> tuple[float, float]:
        scenario = Scenario.of(get_model("llama-3-8b"), get_gpu("a100-sxm-80gb"), runtime=runtime)
        ops = forward(scenario.model, Step(1.0, 4096.0), scenario.dtypes, scenario.layout)
        ((_, op, cost),) = [entry for entry in scenario.timed(ops) if entry[1].name == "attention"]
        return float(op.count * cost.memory), scenario.gpu.memory_bandwidth

    fused, bandwidth = memory(Runtime(name="own"))
    several, _ = memory(Runtime(name="own", score_bytes=16.0))
    assert (several - fused) * bandwidth == pytest.approx(16 * 32 * 32 * 4096 * 4097 / 2)


@pytest.mark.parametrize(("dtype", "factor"), [("w8a16", 5.0), ("int4", 9.0), ("bf16", 1.0)])
def test_weights_that_are_written_in_16_bits_first_move_these_bytes_too(dtype: str, factor: float) -> None:
    """Of 8 bits one byte is read, two are written and two are read again: five bytes instead of one."""

    def memory_time(runtime: Runtime) -> float:
        scenario = Scenario.of(get_model("llama-2-7b"), get_gpu("a100-sxm-80gb"), get_dtypes(dtype), runtime=runtime)
        ops = forward(scenario.model, Step(1.0, 1.0, 10.0, "decode"), scenario.dtypes, scenario.layout)
        return sum(float(op.count * c.memory) for _, op, c in scenario.timed(ops) if op.name == "mlp_down")

    fused, apart = Runtime(name="own"), Runtime(name="own", dequantizes=True)
    assert memory_time(apart) == pytest.approx(factor * memory_time(fused))


def test_products_in_nvfp4_outside_experts_have_a_factor() -> None:
    """Dense Llama gets faster by the factor on its matrix products; the experts of gpt-oss are in mxfp4."""
    plain, faster = Runtime(name="own"), Runtime(name="own", fp4_matmul=1.5)
    step = Step(4096.0, 1.0, 10.0, "decode")

    def of_products(model: str, dtype: str, runtime: Runtime) -> float:
        scenario = Scenario.of(get_model(model), get_gpu("b200-sxm"), get_dtypes(dtype), runtime=runtime)
        ops = forward(scenario.model, step, scenario.dtypes, scenario.layout)
        return sum(float(op.count * (c.seconds - c.launch)) for _, op, c in scenario.timed(ops) if op.rate == "fp4")

    assert of_products("llama-3.1-8b", "nvfp4", plain) == pytest.approx(
        1.5 * of_products("llama-3.1-8b", "nvfp4", faster)
    )
    assert of_products("gpt-oss-120b", "mxfp4", plain) == of_products("gpt-oss-120b", "mxfp4", faster)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("vlm", "vllm"), ("tensorrt", "tensorrt-llm"), ("llamacpp", "llama.cpp"), ("zzz", "known: ")],
)
def test_an_unknown_runtime_gets_the_nearest_names(ask: Ask, name: str, nearest: str) -> None:
    found = ask("infer", "--model_name", "llama-2-7b", "--gpu_name", "a100-sxm-80gb", "--runtime", name)
    assert (found.status, found.out) == (1, "")
    assert f"unknown runtime '{name}'" in found.err
    assert nearest in found.err
    assert found.err.count("\n") == 1


BROKEN = [
    ("", "mine.json"),
    ("[1]", "not an object"),
    ('{"step_seconds": 1e-3}', "missing key 'name'"),
    ('{"name": "mine", "step_second": 1e-3}', "unknown key 'step_second'; did you mean step_seconds"),
    ('{"name": "mine", "step_seconds": -1}', "step_seconds"),
    ('{"name": "mine", "step_seconds": NaN}', "step_seconds"),
    ('{"name": "mine", "step_seconds": "1"}', "step_seconds must be a number"),
    ('{"name": "mine", "attention": 0}', "attention"),
    ('{"name": "mine", "collective": "mpi"}', "collective"),
    ('{"name": "mine", "bands": {"total": {"low": 1.2, "high": 0.9}}}', "low 1.2 is above high 0.9"),
]


@pytest.mark.parametrize(("content", "said"), BROKEN)
def test_a_file_that_is_no_runtime_is_refused_by_name(ask: Ask, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    found = ask("infer", "--model_name", "llama-2-7b", "--gpu_name", "a100-sxm-80gb", "--runtime", str(path))
    assert (found.status, found.out) == (1, "")
    assert said in found.err
    assert found.err.count("\n") == 1


def test_a_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, problem in (("nowhere.json", "no such file"), ("folder.json", "a folder, not a file")):
        with pytest.raises(LLMAnalysisError, match=problem):
            get_runtime(str(tmp_path / name))


def test_an_answer_names_its_runtime(ask: Ask) -> None:
    asked = ["infer", "--model_name", "llama-2-7b", "--gpu_name", "a100-sxm-80gb"]
    assert json.loads(ask(*asked, "--format", "json").out)["runtime"] == DEFAULT_RUNTIME
    assert json.loads(ask(*asked, "--runtime", "none", "--format", "json").out)["runtime"] == "none"
    assert DEFAULT_RUNTIME in ask(*asked).out


def test_a_runtime_is_refused_by_methods_without_one(ask: Ask) -> None:
    asked = ["infer", "--model_name", "llama-2-7b", "--gpu_name", "a100-sxm-80gb", "--runtime", "vllm"]
    for method in ("ideal", "published"):
        found = ask(*asked, "--method", method)
        assert found.status == 1
        assert "has no runtime" in found.err


def test_files_are_the_names() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} | {"none"} == set(runtime_names())


@pytest.mark.parametrize(
    ("runtime", "note"),
    [
        (Runtime(name="vllm-v1", step_seconds=1e-3, evidence=RuntimeEvidence(rows=5, sources={"a": 5})), "one source"),
        (
            Runtime(name="vllm-v1", step_seconds=1e-3, evidence=RuntimeEvidence(rows=5, sources={"a": 3, "b": 2})),
            "uses the terms fitted to vLLM and TensorRT-LLM together; a fit to its own 5 measurements had no",
        ),
        (Runtime(name="vllm-v1", evidence=RuntimeEvidence(rows=5, sources={"a": 5})), ""),
        (
            Runtime(
                name="vllm-v1",
                step_seconds=1e-3,
                evidence=RuntimeEvidence(rows=5, sources={"a": 5}),
                held_out={"a | t4": {"step_seconds": 2e-3}},
            ),
            "",
        ),
        (Runtime(name="x", evidence=RuntimeEvidence(note="no published rows: the kernels alone")), "no published rows"),
    ],
)
def test_a_note_names_the_runtime_whose_terms_are_used(runtime: Runtime, note: str) -> None:
    """Own terms come with the fits that left out rows; a runtime without terms is the kernels alone."""
    found = runtime_notes(runtime, get_model("llama-2-7b"))
    assert len(found) == bool(note)
    assert all(note in each for each in found)


def test_a_runtime_with_the_terms_of_another_names_it() -> None:
    other = next(r for r in map(get_runtime, runtime_names()) if r.held_out and r.name != "vllm-rocm")
    terms = {term: getattr(other, term) for term in TERMS}
    runtime = Runtime(name="sglang", evidence=RuntimeEvidence(rows=9, sources={"a": 5, "b": 4}), **terms)
    (note,) = runtime_notes(runtime, get_model("llama-2-7b"))
    assert "the terms of " in note


def test_bands_of_context_parallelism_do_not_exist() -> None:
    model, gpu, dtypes = get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"), get_dtypes("bf16")
    assert band_for(Scenario.of(model, gpu, dtypes, Parallelism(tp_size=2)), "total") is not None
    assert band_for(Scenario.of(model, gpu, dtypes, Parallelism(tp_size=2, cp_size=2)), "total") is None
    answer = LLMAnalysis(model, gpu, dtypes, Parallelism(cp_size=2)).inference(seq_len=512)
    assert (answer.total_latency_low, answer.prefill_latency_high) == (None, None)


def test_a_cell_without_rows_takes_the_band_of_the_other_chips() -> None:
    model, dtypes = get_model("llama-3.1-8b"), get_dtypes("bf16")
    for gpu, measured in (("h100-sxm-80gb", True), ("a10-24gb", False)):
        for phase in ("prefill", "total", "serving"):
            own, other = (cells().get(cell_name(phase, True, chip)) for chip in (measured, not measured))
            assert band_for(Scenario.of(model, get_gpu(gpu), dtypes), phase) == (own or other)


def test_every_cell_has_enough_rows_and_groups() -> None:
    for band in cells().values():
        assert band.rows >= 10
        assert band.groups >= 3
        assert band.low < band.high


@pytest.mark.parametrize(("low", "high", "bias"), [(0.9, 1.1, ""), (1.05, 1.3, "low"), (0.7, 0.95, "high")])
def test_a_band_beside_the_estimate_is_reported_as_a_bias(low: float, high: float, bias: str) -> None:
    assert Band(low=low, high=high).bias == bias


def test_a_note_gives_the_measurements_behind_the_band_and_warns_outside_of_them() -> None:
    def notes(gpu: str, batch: int) -> str:
        parts = get_model("llama-3.1-8b"), get_gpu(gpu), get_dtypes("bf16")
        return "; ".join(LLMAnalysis(*parts).inference(batch_size_per_gpu=batch).notes)

    inside, large, other = notes("h100-sxm-80gb", 8), notes("h100-sxm-80gb", 4096), notes("a10-24gb", 8)
    assert "error bands: from" in inside
    assert "outside of" not in inside
    assert "the batch is outside of the" in large
    assert "none of the measurements is of a10-24gb" in other


def test_the_output_of_attention_is_quantized_by_a_kernel_where_the_engine_does_not_fuse_it() -> None:
    """TensorRT-LLM's attention writes fp8 itself. A product in 16 bits takes the output as it is."""
    parts = get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb")

    def seconds(dtype: str, runtime: str) -> list[float]:
        scenario = Scenario.of(*parts, get_dtypes(dtype), runtime=get_runtime(runtime))
        ops = forward(scenario.model, Step(8.0, 1.0, 100.0, "decode"), scenario.dtypes, scenario.layout)
        return [float(taken.seconds) for _, op, taken in scenario.timed(ops) if op.name == "attention_quantize"]

    assert seconds("fp8", "vllm-v1")[0] > 1e-6
    assert seconds("fp8", "tensorrt-llm") == [0.0]
    assert seconds("bf16", "vllm-v1") == []
