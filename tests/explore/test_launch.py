"""Launch commands of serving engines."""

import re
import shlex
from itertools import product

import pytest

from llm_analysis.catalog import get_model
from llm_analysis.explore.launch import CHECKED, UNCHECKED, Server, launch_commands, launch_notes
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.parallelism import Parallelism


def server(model: str, dtype: str, layout: Parallelism, **more: object) -> Server:
    return Server(get_model(model), get_dtypes(dtype), layout, 28, 4500, **more)  # type: ignore[arg-type]


def test_a_dense_model_in_fp8_on_four_gpus() -> None:
    commands = launch_commands(server("llama-3.1-70b", "fp8", Parallelism(tp_size=4)))
    assert commands["vllm"] == (
        "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 --max-num-seqs 28 --max-model-len 4500 "
        "--gpu-memory-utilization 0.9 --quantization fp8 --kv-cache-dtype fp8"
    )
    assert commands["sglang"] == (
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-70B --tp-size 4 --max-running-requests 28 "
        "--context-length 4500 --mem-fraction-static 0.9 --quantization fp8 --kv-cache-dtype fp8_e4m3"
    )
    assert commands["trtllm"] == (
        "trtllm-serve meta-llama/Llama-3.1-70B --tp_size 4 --max_batch_size 28 --max_seq_len 4500 "
        "--kv_cache_free_gpu_memory_fraction 0.9"
    )


def test_expert_parallel_is_a_switch_of_vllm_and_attention_dp_of_sglang() -> None:
    layout = Parallelism(tp_size=2, dp_size=4, ep_size=8)
    commands = launch_commands(server("deepseek-v3", "fp8_block", layout))
    assert "--tensor-parallel-size 2 --data-parallel-size 4 --enable-expert-parallel" in commands["vllm"]
    assert "--tp-size 8 --attn-dp-size 4 --ep-size 8 --max-running-requests 112" in commands["sglang"]
    assert "--enable-dp-attention" not in commands["sglang"]


def test_expert_parallel_over_some_gpus_only_is_noted_for_vllm() -> None:
    layout = Parallelism(tp_size=8, ep_size=4)
    assert any("over all 8 GPUs, not 4" in note for note in launch_notes(server("deepseek-v3", "fp8_block", layout)))


def test_replicas_of_a_dense_model_are_plain_data_parallelism() -> None:
    commands = launch_commands(server("llama-3.1-8b", "bf16", Parallelism(dp_size=2)))
    assert "--dp-size 2" in commands["sglang"]
    assert "--quantization" not in commands["vllm"]


def test_a_format_that_no_engine_makes_while_loading_needs_a_checkpoint() -> None:
    notes = launch_notes(server("llama-3.1-70b", "int4", Parallelism(tp_size=2)))
    assert (
        notes[-1]
        == "vLLM, SGLang, TensorRT-LLM: give a checkpoint of meta-llama/Llama-3.1-70B that is quantized to int4"
    )


@pytest.mark.parametrize(("vendor", "runs"), [("NVIDIA", True), ("", True), ("AMD", False), ("Intel", False)])
def test_tensorrt_llm_is_left_out_for_gpus_of_other_vendors_than_nvidia(vendor: str, runs: bool) -> None:
    asked = server("llama-3.1-70b", "int4", Parallelism(tp_size=2), vendor=vendor)
    assert {"vllm", "sglang"} <= set(launch_commands(asked))
    assert ("trtllm" in launch_commands(asked)) == runs
    notes = " ".join(launch_notes(asked))
    assert ("TensorRT-LLM" in notes) == ("trtllm-serve" in notes) == runs


def test_servers_of_disaggregated_serving_have_roles() -> None:
    found = {
        role: launch_commands(server("llama-3.1-8b", "bf16", Parallelism(), role=role))
        for role in ("prefill", "decode")
    }
    assert "--disaggregation-mode prefill" in found["prefill"]["sglang"]
    assert '"kv_role":"kv_consumer"' in found["decode"]["vllm"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_launch_commands_use_only_checked_flags(engine: str) -> None:
    known = set(CHECKED[engine][1] if engine in CHECKED else UNCHECKED[engine])
    seen: set[str] = set()
    for tp, dp, ep, pp, cp, dtype, role in product(
        (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), ("bf16", "fp8", "nvfp4"), ("", "prefill")
    ):
        layout = Parallelism(tp_size=tp, dp_size=dp, ep_size=ep, pp_size=pp, cp_size=cp)
        command = launch_commands(server("qwen3-235b-a22b", dtype, layout, role=role, chunk=8192))[engine]
        words = shlex.split(command)
        seen |= {word for word in words if re.match(r"--\w", word)}
    assert seen <= known
    assert known == seen
