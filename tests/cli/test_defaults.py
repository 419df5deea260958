"""Defaults of a serving engine on the command line."""

import json

import pytest
from conftest import Ask


@pytest.mark.parametrize("command", ["infer", "explain"])
def test_flags_that_are_left_out_are_the_defaults_of_the_server(ask: Ask, command: str) -> None:
    question = ["--model_name", "llama-3.1-8b", "--gpu_name", "a100-sxm-80gb", "--seq_len", "5000"]
    stated = ["--prefill_chunk_size", "2048", "--gpu_memory_utilization", "0.9", "--max_num_seqs", "256"]
    assert ask(command, *question).out == ask(command, *question, *stated).out
    assert "vLLM 0.14.1: 2,048 tokens/pass, 256 sequences" in ask("infer", *question).out


def test_a_flag_overrides_a_default_of_the_server(ask: Ask) -> None:
    question = ["infer", "--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb", "--seq_len", "30000"]
    answer = json.loads(ask(*question, "--format", "json").out)
    assert (answer["prefill_chunk_size"], answer["max_num_seqs"]) == (8192, 1024)
    changed = ["--max_num_batched_tokens", "0", "--gpu_memory_utilization", "0.5", "--max_num_seqs", "4"]
    answer = json.loads(ask(*question, "--batch_size", "8", *changed, "--format", "json").out)
    assert (answer["prefill_chunk_size"], answer["gpu_memory_utilization"]) == (None, 0.5)
    assert any("runs 4 sequences at a time" in note for note in answer["notes"])


def test_a_method_without_an_engine_has_no_defaults(ask: Ask) -> None:
    question = ["infer", "--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb", "--method", "ideal"]
    answer = json.loads(ask(*question, "--format", "json").out)
    found = [answer[key] for key in ("engine", "prefill_chunk_size", "max_num_seqs", "gpu_memory_utilization")]
    assert found == [None, None, None, 1.0]


def test_an_encoder_takes_whole_prompts(ask: Ask) -> None:
    """The default chunk of an A100 is shorter than this prompt, and each token sees all others."""
    question = ["infer", "--model_name", "nomic-embed-text-v1.5", "--gpu_name", "a100-sxm-80gb", "--seq_len", "3000"]
    assert json.loads(ask(*question, "--format", "json").out)["prefill_chunk_size"] is None
    refused = ask(*question, "--prefill_chunk_size", "2048")
    assert (refused.status, refused.out) == (1, "")
    assert (
        "is an encoder, in which each token attends to the whole prompt: prefill_chunk_size 2048 must be at least"
        in refused.err
    )


def test_the_layers_for_multi_token_prediction_are_counted_if_they_draft(ask: Ask) -> None:
    question = ("infer", "--model_name", "deepseek-r1", "--gpu_name", "h200-sxm-141gb", "--tp_size", "8")
    drafts = ("--draft_model_name", "mtp", "--num_draft_tokens", "1", "--acceptance_rate", "0.8")
    assert "not counted: engines load it for speculative decoding only" in ask(*question).out.replace("\n  ", " ")
    out = ask(*question, *drafts).out
    assert "not counted" not in out
    assert "1 token drafted by deepseek-r1 mtp" in out
