"""Launch commands of serving engines for a configuration that was searched.

The flags of vLLM and SGLang were read from the argument parsers in their wheels; see `CHECKED`. The wheel of
TensorRT-LLM is not on PyPI, so the flags of `trtllm-serve` come from its documentation and are not checked.

    this program                     vLLM                              SGLang
    tp_size t, dp_size d (dense)     -tp t, d servers or -dp d         --tp-size t --dp-size d
    ep_size > 1 (experts)            --enable-expert-parallel: a       --tp-size t*d --attn-dp-size d --ep-size e
                                     switch, experts over t*d GPUs
"""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import NamedTuple

from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.parallelism import Parallelism

ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
# Engine version and the flags that its argument parser defines, of those used here.
CHECKED: dict[str, tuple[str, tuple[str, ...]]] = {
    "vllm": (
        "0.33.0",
        (
            "--tensor-parallel-size",
            "--pipeline-parallel-size",
            "--data-parallel-size",
            "--prefill-context-parallel-size",
            "--enable-expert-parallel",
            "--max-num-seqs",
            "--max-model-len",
            "--max-num-batched-tokens",
            "--gpu-memory-utilization",
            "--quantization",
            "--kv-cache-dtype",
            "--kv-transfer-config",
        ),
    ),
    "sglang": (
        "0.5.23",
        (
            "--model-path",
            "--tp-size",
            "--pp-size",
            "--dp-size",
            "--attn-dp-size",
            "--attn-cp-size",
            "--ep-size",
            "--max-running-requests",
            "--context-length",
            "--chunked-prefill-size",
            "--mem-fraction-static",
            "--quantization",
            "--kv-cache-dtype",
            "--disaggregation-mode",
        ),
    ),
}
UNCHECKED: dict[str, tuple[str, ...]] = {
    "trtllm": (
        "--tp_size",
        "--pp_size",
        "--ep_size",
        "--max_batch_size",
        "--max_seq_len",
        "--max_num_tokens",
        "--kv_cache_free_gpu_memory_fraction",
    )
}
# Formats that an engine makes from a 16-bit checkpoint while it loads the weights, with its name for them.
_ONLINE = {
    "vllm": {"fp8": "fp8", "fp8_block": "fp8_per_block", "int8": "int8_per_channel_weight_only"},
    "sglang": {"fp8": "fp8", "nvfp4": "nvfp4_online"},
}


class Server(NamedTuple):
    """One server to launch: a model in its formats on the GPUs of a layout, with the batch that it should reach."""

    model: ModelConfig
    dtypes: Dtypes
    layout: Parallelism
    batch: int
    max_tokens: int  # longest sequence: prompt and output
    chunk: int | None = None  # most tokens of a prefill pass
    memory_fraction: float = 0.9
    role: str = ""  # prefill or decode in disaggregated serving, else empty
    vendor: str = ""  # of the GPU; empty if it is not known

    @property
    def name(self) -> str:
        """The checkpoint, by its Hugging Face id if that is known."""
        return self.model.hf_ids[0] if self.model.hf_ids else self.model.name

    @property
    def engines(self) -> dict[str, str]:
        """The names of the engines that run on the GPU; TensorRT-LLM runs on those of NVIDIA only."""
        only = self.vendor in ("", "NVIDIA")
        return {engine: name for engine, name in ENGINES.items() if only or engine != "trtllm"}


def launch_commands(server: Server) -> dict[str, str]:
    """Return the command of each engine that runs on the GPU: `vllm`, `sglang`, `trtllm`."""
    writers = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}
    return {engine: writers[engine](server) for engine in server.engines}


def launch_notes(server: Server) -> tuple[str, ...]:
    """Return notes on the commands: the versions that were checked, and the checkpoints to prepare."""
    versions = " and ".join(f"{ENGINES[engine]} {version}" for engine, (version, _) in CHECKED.items())
    unchecked = "; those of trtllm-serve were not checked" if "trtllm" in server.engines else ""
    notes = [f"flags were checked against the argument parsers of {versions}{unchecked}"]
    missing = [name for engine, name in server.engines.items() if _needs_checkpoint(engine, server)]
    if missing:
        where = ", ".join(missing)
        notes.append(f"{where}: give a checkpoint of {server.name} that is quantized to {server.dtypes.name}")
    if server.layout.ep_size > 1 and server.layout.ep_size != server.layout.tp_size * server.layout.dp_size:
        total = server.layout.tp_size * server.layout.dp_size
        notes.append(
            f"vLLM: --enable-expert-parallel spreads the experts over all {total} GPUs, not {server.layout.ep_size}"
        )
    return tuple(notes)


def _needs_checkpoint(engine: str, server: Server) -> bool:
    """Return whether the engine cannot make the formats from the model's own checkpoint."""
    weights = server.dtypes.weights
    narrow = server.dtypes.weight_bits < 16 and weights != server.model.weight_format.partition("+")[0]
    return narrow and weights not in _ONLINE.get(engine, {})


def _quantized(engine: str, server: Server, cache_format: str) -> list[str]:
    """Return the flags for weights quantized while loading, and for an 8-bit KV cache."""
    weights, known = server.dtypes.weights, _ONLINE[engine]
    flags = []
    if server.dtypes.weight_bits < 16 and weights != server.model.weight_format.partition("+")[0] and weights in known:
        flags += ["--quantization", known[weights]]
    return flags + (["--kv-cache-dtype", cache_format] if server.dtypes.kv_bits == 8 else [])


def _options(sizes: Mapping[str, int | None]) -> list[str]:
    """Return the flags whose size is given and above 1."""
    return [part for flag, size in sizes.items() if size and size > 1 for part in (flag, str(size))]


def _vllm(server: Server) -> str:
    """Return the `vllm serve` command."""
    layout = server.layout
    shards = {
        "--tensor-parallel-size": layout.tp_size,
        "--pipeline-parallel-size": layout.pp_size,
        "--data-parallel-size": layout.dp_size,
        "--prefill-context-parallel-size": layout.cp_size,
    }
    parts = ["vllm", "serve", quote(server.name), *_options(shards)]
    parts += ["--enable-expert-parallel"] if layout.ep_size > 1 else []
    parts += ["--max-num-seqs", str(server.batch), "--max-model-len", str(server.max_tokens)]
    parts += _options({"--max-num-batched-tokens": server.chunk})
    parts += ["--gpu-memory-utilization", f"{server.memory_fraction:g}", *_quantized("vllm", server, "fp8")]
    if server.role:
        kv_role = "kv_producer" if server.role == "prefill" else "kv_consumer"
        parts += ["--kv-transfer-config", quote(f'{{"kv_connector":"NixlConnector","kv_role":"{kv_role}"}}')]
    return " ".join(parts)


def _sglang(server: Server) -> str:
    """Return the `python -m sglang.launch_server` command."""
    layout = server.layout
    if layout.ep_size > 1:
        shards = {"--tp-size": layout.tp_size * layout.dp_size * layout.cp_size, "--attn-dp-size": layout.dp_size}
    else:
        shards = {"--tp-size": layout.tp_size * layout.cp_size, "--dp-size": layout.dp_size}
    shards |= {"--attn-cp-size": layout.cp_size, "--ep-size": layout.ep_size, "--pp-size": layout.pp_size}
    parts = ["python -m sglang.launch_server --model-path", quote(server.name), *_options(shards)]
    requests = server.batch * layout.dp_size
    parts += ["--max-running-requests", str(requests), "--context-length", str(server.max_tokens)]
    parts += _options({"--chunked-prefill-size": server.chunk})
    parts += ["--mem-fraction-static", f"{server.memory_fraction:g}", *_quantized("sglang", server, "fp8_e4m3")]
    return " ".join(parts + (["--disaggregation-mode", server.role] if server.role else []))


def _trtllm(server: Server) -> str:
    """Return the `trtllm-serve` command."""
    layout = server.layout
    gpus = layout.tp_size * (layout.dp_size if layout.ep_size > 1 else 1)
    parts = ["trtllm-serve", quote(server.name)]
    parts += _options({"--tp_size": gpus, "--ep_size": layout.ep_size, "--pp_size": layout.pp_size})
    parts += ["--max_batch_size", str(server.batch), "--max_seq_len", str(server.max_tokens)]
    parts += _options({"--max_num_tokens": server.chunk})
    return " ".join([*parts, "--kv_cache_free_gpu_memory_fraction", f"{server.memory_fraction:g}"])
