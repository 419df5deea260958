"""Match a name that a user wrote with the names of a catalogue.

Case, `-`, `_` and spaces do not matter. Words that do not change an estimate may be missing or added: the vendor of a
GPU, `Instruct` or `Chat` of a model. A name that leaves a choice matches several names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

_BREAK = re.compile(r"[-_\s/()]+")
# The end of a family's name and its generation: gemma2, qwen2.5. One letter before a digit is no family: v3, a3b.
_GENERATION = re.compile(r"^([a-z]{2,})(\d)")
# Words in the names of drivers, shops and cloud providers that do not distinguish two GPUs of the catalogue.
_GPU_WORDS = {"nvidia", "amd", "intel", "google", "aws", "amazon", "huawei"}
_GPU_WORDS |= {"tesla", "geforce", "quadro", "instinct", "radeon", "gpu", "graphics", "oam", "generation"}
_GPU_WORDS |= {"server", "workstation", "edition", "hbm2", "hbm2e", "hbm3", "hbm3e"}
# Words in the ids of Hugging Face that do not change the shapes of a model.
_MODEL_WORDS = {"meta", "instruct", "it", "base", "chat", "hf", "dynamic", "fp8", "awq", "nvfp4"}
# The words among them that give the number format of a checkpoint.
_WEIGHT_FORMATS = {"fp8": "fp8", "awq": "int4", "nvfp4": "nvfp4"}
# Chips that were sold in several forms, and the form that the bare name means.
_USUAL_FORMS = {"h100": "h100-sxm-80gb", "a100": "a100-sxm-80gb", "h200": "h200-sxm-141gb"}

# Names of the same flags elsewhere: short forms, Hugging Face, vLLM, SGLang, TensorRT-LLM, genai-perf.
ALIASES = {
    "model": "model_name",
    "gpu": "gpu_name",
    "dtype": "dtype_name",
    "draft_model": "draft_model_name",
    "isl": "seq_len",
    "input_len": "seq_len",
    "input_length": "seq_len",
    "osl": "num_tokens_to_generate",
    "output_len": "num_tokens_to_generate",
    "output_length": "num_tokens_to_generate",
    "max_new_tokens": "num_tokens_to_generate",
    "batch_size": "batch_size_per_gpu",
    "tp": "tp_size",
    "pp": "pp_size",
    "dp": "dp_size",
    "ep": "ep_size",
    "cp": "cp_size",
    "sp": "sp_size",
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
    "expert_parallel_size": "ep_size",
    "context_parallel_size": "cp_size",
    "num_speculative_tokens": "num_draft_tokens",
    "concurrency": "max_concurrency",
    "max_num_batched_tokens": "prefill_chunk_size",
    "chunked_prefill_size": "prefill_chunk_size",
    "max_num_tokens": "prefill_chunk_size",
    "max_running_requests": "max_num_seqs",
    "max_batch_size": "max_num_seqs",
    "mem_fraction_static": "gpu_memory_utilization",
    "free_gpu_memory_fraction": "gpu_memory_utilization",
}
# Names of number formats in PyTorch, Hugging Face and vLLM.
_DTYPES = {
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float8": "fp8",
    "float8e4m3": "fp8",
    "float8e4m3fn": "fp8",
    "fp8e4m3": "fp8",
    "fp8e5m2": "fp8",
    "float8e5m2": "fp8",
}


def folded(name: str) -> str:
    """Return a name without case, hyphens, underscores and spaces."""
    return "".join(_BREAK.split(name.lower()))


def matching_gpus(name: str, known: Iterable[str]) -> list[str]:
    """Return the known GPUs that `name` can mean. If one of them is the usual form of the chip, it comes first."""
    wanted, spellings = _gpu_words(name), {each: [_gpu_words(each)] for each in known}
    found = _equal(wanted, spellings) or _with_words(wanted, {each: words[0] for each, words in spellings.items()})
    return sorted(found, key=lambda each: each != usual_form(name))


def usual_form(name: str) -> str | None:
    """Return the usual form of the chip in the name of a GPU; None for a chip that has one form."""
    return next((form for chip, form in _USUAL_FORMS.items() if chip in _gpu_words(name)), None)


def matching_models(name: str, known: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the known models that `name` can mean; `known` gives the Hugging Face ids of each model.

    A name with an organisation must match a whole id, except for case and the words that do not matter: `acme/tiny`
    does not match the `tiny` of another organisation.
    """
    organisation, _, repository = name.rpartition("/")
    spellings = {
        each: [_model_words(each), *(_model_words(one.rpartition("/")[2]) for one in ids)]
        for each, ids in known.items()
    }
    wanted = _model_words(repository)
    found = _equal(wanted, spellings)
    if found or organisation:
        return found
    return _of_generation(_parts(wanted), {each: _parts(words[0]) for each, words in spellings.items()})


def spread(names: Sequence[str], most: int) -> list[str]:
    """Return at most `most` of some names of models, in their order, from as many generations as possible."""
    families: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        families.setdefault(tuple(_parts(_words(name))[:2]), []).append(name)
    turns = [name for turn in zip_longest(*families.values()) for name in turn if name is not None]
    return sorted(turns[:most], key=names.index)


def dtype_spelling(name: str) -> str:
    """Return a number format as this program writes it: bfloat16 is bf16, FP8-block is fp8_block."""
    return _DTYPES.get(folded(name.removeprefix("torch.")), "_".join(_words(name)) or name)


def weight_format(name: str) -> str:
    """Return the number format that the name of a checkpoint gives, such as fp8; empty if it gives none."""
    return next((_WEIGHT_FORMATS[word] for word in _words(name) if word in _WEIGHT_FORMATS), "")


def _equal(wanted: list[str], known: Mapping[str, list[list[str]]]) -> list[str]:
    """Return the names with a spelling that equals `wanted`."""
    text = "".join(wanted)
    return [name for name, spellings in known.items() if text and any("".join(words) == text for words in spellings)]


def _with_words(wanted: list[str], known: Mapping[str, list[str]]) -> list[str]:
    """Return the names that have all words of `wanted`, else those that start with it."""
    text = "".join(wanted)
    if not text:
        return []
    parts = [name for name, words in known.items() if set(wanted) <= set(words)]
    return parts or [name for name, words in known.items() if _starts("".join(words), text)]


def _of_generation(wanted: list[str], known: Mapping[str, list[str]]) -> list[str]:
    """Return the models that have all words of `wanted`, those of its family first, else those that start with it.

    `llama 3` means Llama 3 and may mean Llama 3.1, but one model of another generation alone is no answer to it.
    """
    if not wanted:
        return []
    exact = [name for name, words in known.items() if set(wanted) <= set(words)]
    within = [name for name, words in known.items() if all(_has_generation(words, word) for word in wanted)]
    if len(exact) == 1:
        return exact
    if len(within) > 1:
        return sorted(within, key=lambda name: (known[name][0] != wanted[0], name not in exact))
    return [name for name, words in known.items() if _starts_at_break(words, "".join(wanted))]


def _has_generation(words: list[str], wanted: str) -> bool:
    """Return whether a word is `wanted`, or a generation such as 3.1 of `wanted` 3; 2.8b is no generation."""
    return any(word == wanted or (word.startswith(f"{wanted}.") and word[-1] not in "bm") for word in words)


def _starts_at_break(words: list[str], text: str) -> bool:
    """Return whether a model starts with `text`, up to the end of a word, its unit b or m, or a digit after a letter.

    `mamba2` does not start mamba-2.8b, but `test13` starts test-13b.
    """
    name, ends = "".join(words), {sum(map(len, words[:count])) for count in range(1, len(words) + 1)}
    if not name.startswith(text) or name == text:
        return False
    if text[-1].isdigit():
        return len(text) in ends or (name[len(text)] in "bm" and len(text) + 1 in ends)
    return len(text) in ends or _starts(name, text)


def _starts(name: str, text: str) -> bool:
    """Return whether `name` starts with `text` and goes on with another kind of character: h100sxm, but not h10."""
    return name.startswith(text) and name != text and text[-1].isdigit() != name[len(text)].isdigit()


def _words(name: str) -> list[str]:
    """Return the lower-case words of a name."""
    return [word for word in _BREAK.split(name.lower()) if word]


def _gpu_words(name: str) -> list[str]:
    """Return the words that distinguish a GPU; SXM2 to SXM5 are generations of one socket, one for each chip."""
    return ["sxm" if re.fullmatch("sxm[2-9]", word) else word for word in _words(name) if word not in _GPU_WORDS]


def _model_words(name: str) -> list[str]:
    """Return the words that distinguish a model."""
    return [word for word in _words(name) if word not in _MODEL_WORDS]


def _parts(words: list[str]) -> list[str]:
    """Return the words of a model, split between family and generation: gemma2 gives gemma and 2. 4.0 becomes 4."""
    parts = [part for word in words for part in _GENERATION.sub(r"\1 \2", word).split()]
    return [part.removesuffix(".0") for part in parts]
