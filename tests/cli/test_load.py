"""The command `load`: its formats, and one clear line for bad input."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from conftest import Ask

SERVER = ("load", "--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb")


def test_the_block_has_the_lines_of_vllm_bench_serve(ask: Ask) -> None:
    answer = ask(*SERVER, "--request_rate", "4", "--num_prompts", "100", "--goodput", "ttft:500,tpot:50")
    assert answer.status == 0
    for line in (
        "Successful requests:",
        "Benchmark duration (s):",
        "Total input tokens:",
        "Total generated tokens:",
        "Request throughput (req/s):",
        "Request goodput (req/s):",
        "Output token throughput (tok/s):",
        "Mean TTFT (ms):",
        "P99 TPOT (ms):",
        "Median ITL (ms):",
        "P95 E2EL (ms):",
        "Saturation rate (req/s):",
        "Limiting resource:",
    ):
        assert line in answer.out


def test_json_is_in_seconds_and_agrees_with_the_block(ask: Ask) -> None:
    flags = (*SERVER, "--request_rate", "4", "--num_prompts", "100")
    found = json.loads(ask(*flags, "--format", "json").out)
    point = found["points"][0]
    assert f"{point['ttft']['mean'] * 1e3:,.2f}" in ask(*flags).out
    assert 0.001 < point["tpot"]["median"] < 0.1
    assert found["saturation_rate"] > 4
    assert point["fraction_of_saturation"] == pytest.approx(4 / found["saturation_rate"])


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(ask: Ask) -> None:
    flags = (*SERVER, "--dataset", "azure-conv", "--request_rate", "4", "--num_prompts", "100", "--format", "json")
    assert ask(*flags).out == ask(*flags).out
    assert ask(*flags).out != ask(*flags, "--seed", "1").out


def test_csv_lists_requests_or_rates(ask: Ask) -> None:
    rows = list(csv.DictReader(io.StringIO(ask(*SERVER, "--num_prompts", "50", "--format", "csv").out)))
    assert len(rows) == 50
    assert float(rows[0]["end"]) > float(rows[0]["first_token"]) > 0
    flags = ("--num_prompts", "50", "--request_rate", "1,2,4", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ask(*SERVER, *flags).out)))
    assert [float(row["request_rate"]) for row in rows] == [1, 2, 4]
    assert all(float(row["ttft_p99"]) > 0 for row in rows)


def test_a_trace_is_replayed(ask: Ask, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_time,input_tokens,output_tokens\n5,100,20\n6,200,30\n7.5,10,1\n")
    rows = list(csv.DictReader(io.StringIO(ask(*SERVER, "--trace", str(trace), "--format", "csv").out)))
    assert [float(row["sent"]) for row in rows] == [0, 1, 2.5]
    assert [int(row["output_tokens"]) for row in rows] == [20, 30, 1]


def test_a_rate_beyond_saturation_is_reported(ask: Ask) -> None:
    answer = ask(*SERVER, "--request_rate", "200", "--num_prompts", "200")
    assert "the queue grows by" in answer.out


def test_a_run_that_is_too_short_is_reported(ask: Ask) -> None:
    answer = ask(*SERVER, "--request_rate", "10", "--num_prompts", "50")
    assert "ramp-up and drain distort it; give num_prompts" in answer.out


def test_burstiness_without_a_rate_counts_for_the_goodput(ask: Ask) -> None:
    flags = (*SERVER, "--num_prompts", "50", "--goodput", "ttft:100", "--format", "json")
    plain, bursty = (json.loads(ask(*flags, *more).out)["goodput_rate"] for more in ((), ("--burstiness", "0.2")))
    assert bursty < plain


def test_a_trace_has_no_highest_rate_for_a_share_of_requests(ask: Ask, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_time,input_tokens,output_tokens\n0,100,20\n1,200,30\n")
    flags = ("--trace", str(trace), "--goodput", "ttft:500", "--goodput_attainment", "0.9")
    assert "a trace has one rate, and goodput_attainment is for the highest one" in ask(*SERVER, *flags).err


@pytest.mark.parametrize(
    ("gap", "note"),
    [
        (0.3, r"ramp-up and drain distort it; use a longer trace, of \d+ requests$"),
        (0.001, r"latencies grow with the trace and have no steady value; add replicas$"),
    ],
)
def test_a_note_on_a_trace_names_no_flag_that_a_trace_refuses(ask: Ask, tmp_path: Path, gap: float, note: str) -> None:
    rows = "".join(f"{i * gap},100,60\n" for i in range(12))
    trace = tmp_path / "trace.csv"
    trace.write_text(f"arrival_time,input_tokens,output_tokens\n{rows}")
    found = json.loads(ask(*SERVER, "--trace", str(trace), "--format", "json").out)
    assert any(re.search(note, each) for each in found["points"][0]["notes"])


def test_a_small_rate_has_significant_digits(ask: Ask) -> None:
    out = ask(*SERVER, "--request_rate", "0.00123", "--num_prompts", "10").out
    assert re.search(r"Request rate configured \(req/s\): +0\.00123$", out, re.MULTILINE)
    assert re.search(r"Request throughput \(req/s\): +0\.00\d{3}$", out, re.MULTILINE)


def test_a_table_of_rates_fits_80_columns_and_names_the_limits_below(ask: Ask) -> None:
    out = ask(*SERVER, "--request_rate", "2,4,40", "--num_prompts", "50").out
    assert max(map(len, out.splitlines())) <= 80
    assert "\nlimit: memory bandwidth\n" in out
    flags = ("--num_prompts", "60", "--max_num_seqs", "16")
    out = ask(*SERVER, *flags, "--request_rate", "1,2,40").out
    assert "\nlimit: memory bandwidth at 1 and 2 req/s; max_num_seqs at 40 req/s\n" in out
    markdown = ask(*SERVER, "--request_rate", "2,4", "--num_prompts", "20", "--format", "markdown").out
    assert "| limit " in markdown


def test_a_curve_is_drawn(ask: Ask, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "curve.svg"
    answer = ask(*SERVER, "--request_rate", "2,4,8", "--num_prompts", "60", "--plot", str(target))
    assert answer.status == 0
    assert target.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--request_rate", "0"), "request_rate must be requests per second above 0"),
        (("--request_rate", "8,x"), "request_rate must be"),
        (("--dataset", "azur"), "did you mean azure-conv"),
        (("--random_input_len", "200000"), "more than the 131,072 positions of llama-3.1-8b"),
        (("--random_output_len", "0"), "random_output_len must be a whole number from 1"),
        (("--random_range_ratio", "1"), "random_range_ratio must be"),
        (("--goodput", "ttft"), "such as ttft:500,tpot:50"),
        (("--goodput", "ttft:-5"), "such as ttft:500,tpot:50"),
        (("--goodput", "ttft:500m"), "such as ttft:500,tpot:50"),
        (
            ("--dataset", "sharegpt", "--random_input_len", "9"),
            "dataset sharegpt has its own lengths: leave out random",
        ),
        (
            ("--trace", "x.csv", "--request_rate", "2"),
            "a trace has its own arrivals and lengths: leave out request_rate",
        ),
        (("--request_rate", "8:1"), "request_rate 8:1 is empty"),
        (("--goodput_attainment", "2"), "goodput_attainment must be"),
        (("--gpu_memory_utilization", "0.2"), "does not fit: needs"),
        (("--gpu_memory_utilization", "2"), "gpu_memory_utilization must be"),
        (("--num_prefill_workers", "1"), "num_prefill_workers and num_decode_workers together"),
        (("--burstiness", "0"), "burstiness must be above 0"),
        (("--burstiness", "0.5"), "burstiness has no effect on requests that arrive all at once: give --request_rate"),
        (("--goodput_attainment", "0.9"), "goodput_attainment needs limits: give --goodput, such as ttft:500,tpot:50"),
        (("--request_rate", "1,000"), "not '1,000'; write 1000"),
        (("--max_concurrency", "0"), "max_concurrency must be a whole number from 1"),
        (("--prefix_cache_hit_rate", "1"), "prefix_cache_hit_rate must be"),
        (("--router", "random"), "round_robin"),
        (("--method", "published"), "no serving engine"),
        (("--plot", "x.pdf", "--request_rate", "1,2"), "plot must be a file ending in .png or .svg"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--cost_per_gpu_hour", "cheap"), "cost_per_gpu_hour must be a number"),
        (("--dp_size", "100000"), "dp_size must be a whole number from 1 to 256"),
    ],
)
def test_bad_input_gets_one_line(ask: Ask, flags: tuple[str, ...], part: str) -> None:
    few = () if "--trace" in flags else ("--num_prompts", "10")
    answer = ask(*SERVER, *few, *flags)
    assert answer.status == 1
    assert answer.out == ""
    assert part in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("0,10,10\n2,10,10\n1,10,10\n", "line 4: arrival_time 1 is before"),
        ("0,10,0\n", "line 2: output_tokens must be a whole number from 1 up"),
        ("0,ten,1\n", "line 2: input_tokens must be a number"),
        ("", "no requests"),
    ],
)
def test_a_bad_trace_is_refused(ask: Ask, tmp_path: Path, rows: str, part: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_time,input_tokens,output_tokens\n" + rows)
    answer = ask(*SERVER, "--trace", str(trace))
    assert answer.status == 1
    assert part in answer.err


def test_notes_are_wrapped(ask: Ask) -> None:
    answer = ask(*SERVER, "--num_prompts", "20", "--request_rate", "3")
    assert "note: at 3 requests/s 20 requests arrive" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("gpu", "more", "parts"),
    [
        ("mi300x-192gb", (), ("no kernels of mi300x-192gb were measured: they are assumed to reach",)),
        ("rtx-4090", (), ("no kernels of rtx-4090", "embedding bf16, elementwise bf16, residual bf16: not measured")),
        ("h200-sxm-141gb", ("--tp_size", "2"), ("no kernels of h200-sxm-141gb",)),
        ("rtx-3090", (), ("no kernels of rtx-3090", "some of its figures are announcements or recalled")),
        ("rtx-4090", ("--pp_size", "2"), ("no kernels of rtx-4090",)),
        ("h100-sxm-80gb", (), ()),
    ],
)
def test_a_server_has_the_notes_of_a_static_batch_on_the_gpu(
    ask: Ask, gpu: str, more: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    model = ("--model_name", "llama-3.1-8b", "--gpu_name", gpu, *more)
    simulated, steady = ("load", *model, "--num_prompts", "20"), ("infer", *model, "--max_concurrency", "4")
    static = json.loads(ask("infer", *model, "--format", "json").out)["notes"]
    wanted = {note for note in static if not note.startswith("error bands")}  # of published static batches
    assert all(any(part in note for note in wanted) for part in parts)
    for command in (simulated, steady):
        notes = json.loads(ask(*command, "--format", "json").out)["notes"]
        assert len(notes) == len(set(notes))
        assert wanted <= set(notes)
        text = " ".join(ask(*command).out.split())
        assert all(text.count(f"note: {note}") == 1 for note in notes)
        csv_notes = ask(*command, "--format", "csv").err
        assert all(note[:500] in csv_notes for note in wanted)


@pytest.mark.parametrize("stages", ["1", "2", "4"])
def test_a_prompt_passes_all_stages_of_a_pipeline(ask: Ask, stages: str) -> None:
    """A single request has the latency of infer; counted for one stage, its TTFT was 2.6 times too short at four."""
    flags = ("--pp_size", stages, "--max_concurrency", "1", "--format", "json")
    lengths = ("--random_input_len", "4000", "--random_output_len", "128", "--num_prompts", "5")
    point = json.loads(ask(*SERVER, *flags, *lengths).out)["points"][0]
    closed = json.loads(ask("infer", *SERVER[1:], *flags, "--seq_len", "4000", "--num_tokens_to_generate", "128").out)
    for name in ("ttft", "tpot", "e2e"):
        found = closed[name] if isinstance(closed[name], float) else closed[name]["mean"]
        assert point[name]["mean"] == pytest.approx(found, rel=0.05)
    assert point["request_throughput"] == pytest.approx(closed["request_throughput"], rel=0.03)


@pytest.mark.parametrize(("requests", "noted"), [(64, False), (256, True), (1000, False)])
def test_a_note_explains_a_throughput_above_the_saturation_rate(ask: Ask, requests: int, noted: bool) -> None:
    server = ("infer", "--model_name", "llama-3.1-70b", "--gpu_name", "h100-sxm-80gb", "--tp_size", "4")
    flags = ("--seq_len", "128", "--num_tokens_to_generate", "1024", "--max_concurrency", str(requests))
    found = json.loads(ask(*server, *flags, "--format", "json").out)
    assert (found["request_throughput"] > 1.02 * found["saturation_rate"]) == noted
    assert any("preempts some" in note for note in found["notes"]) == noted


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        (("--num_prompts", "20"), "memory bandwidth"),  # all at once, but there are slots for all
        (("--num_prompts", "20", "--max_num_seqs", "8"), "max_num_seqs"),
        (("--num_prompts", "20", "--max_num_seqs", "8", "--max_concurrency", "16"), "max_num_seqs"),
        (("--num_prompts", "20", "--max_num_seqs", "8", "--max_concurrency", "4"), "memory bandwidth"),
    ],
)
def test_slots_are_the_limit_only_if_requests_wait_for_them(ask: Ask, flags: tuple[str, ...], limit: str) -> None:
    found = json.loads(ask(*SERVER, *flags, "--format", "json").out)
    assert found["points"][0]["limiting_resource"] == limit


def test_infer_answers_the_steady_state_of_a_server(ask: Ask) -> None:
    flags = ("infer", *SERVER[1:], "--seq_len", "2048", "--num_tokens_to_generate", "256")
    found = json.loads(ask(*flags, "--concurrency", "64", "--format", "json").out)
    assert found["request_throughput"] * found["e2e"] == pytest.approx(64, rel=0.02)  # Little's law
    static = json.loads(ask(*flags, "--batch_size_per_gpu", "64", "--format", "json").out)
    assert found["ttft"] < static["prefill_latency"] / 10
    assert f"{found['tpot'] * 1e3:.2f} ms" in ask(*flags, "--max_concurrency", "64").out


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--max_concurrency", "0"), "max_concurrency must be a whole number from 1"),
        (("--max_concurrency", "8", "--batch_size_per_gpu", "2"), "takes no batch_size_per_gpu"),
        (("--max_concurrency", "8", "--gpu_memory_utilization", "0.2"), "does not fit: needs"),
        (("--max_concurrency", "8", "--num_samples", "2"), "takes no num_samples"),
        (("--max_concurrency", "8", "--disaggregated"), "takes no disaggregated"),
        (("--max_concurrency", "8", "--use_kv_cache", "False"), "takes no use_kv_cache"),
        (("--max_concurrency", "8", "--operators"), "takes no operators"),
        (("--max_concurrency", "8", "--summary"), "takes no summary"),
        (("--max_concurrency", "8", "--output_dir", "x"), "takes no output_dir"),
        (("--max_concurrency", "8", "--output_file_prefix", "x"), "takes no output_file_prefix"),
        (("--max_concurrency", "8", "--output_file_suffix", "x"), "takes no output_file_suffix"),
        (("--max_concurrency", "8", "--prefill_chunk_size", "0"), "takes no prefill_chunk_size 0"),
        (("--max_concurrency", "8", "--seq_len", "200000"), "more than the 131072 positions of llama-3.1-8b"),
        (("--max_concurrency", "8", "--cost_per_gpu_hour", "cheap"), "cost_per_gpu_hour must be a number"),
    ],
)
def test_flags_that_do_not_apply_to_the_steady_state_are_refused(ask: Ask, flags: tuple[str, ...], part: str) -> None:
    answer = ask("infer", *SERVER[1:], *flags)
    assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert part in answer.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--cp_size", "2"),
        ("--tp_size", "2"),
        ("--pp_size", "2"),
        ("--dp_size", "2"),
        ("--prefill_chunk_size", "256"),
        ("--max_num_seqs", "16"),
        ("--gpu_memory_utilization", "0.5"),
        ("--cached_prefix_len", "100"),
        ("--kv_cache_dtype_bytes", "1"),
        ("--layernorm_dtype_bytes", "4"),
    ],
)
def test_flags_that_apply_to_the_steady_state_change_it(ask: Ask, flags: tuple[str, ...]) -> None:
    question = ("infer", *SERVER[1:], "--max_concurrency", "64", "--format", "json")
    plain, changed = (json.loads(ask(*question, *each).out) for each in ((), flags))
    figures = ("ttft", "tpot", "request_throughput", "kv_used_fraction")
    assert [plain[name] for name in figures] != [changed[name] for name in figures]


def test_a_method_without_a_server_is_refused_in_the_words_of_load(ask: Ask) -> None:
    flags = (*SERVER[1:], "--method", "published")
    steady, simulated = ask("infer", *flags, "--max_concurrency", "8"), ask("load", *flags)
    assert (steady.status, steady.out) == (1, "")
    assert steady.err == simulated.err


def test_a_steady_state_that_must_fit_and_does_not_exits_with_status_3(ask: Ask) -> None:
    question = ("infer", "--model_name", "llama-3.1-70b", "--gpu_name", "h100-sxm-80gb", "--must_fit")
    answer, static = ask(*question, "--max_concurrency", "32"), ask(*question)
    assert (answer.status, answer.out, static.status) == (3, "", 3)
    assert answer.err.startswith("llm-analysis: does not fit: needs ")
    assert static.err.startswith("llm-analysis: does not fit: needs ")
    assert ask(*question[:-1], "--max_concurrency", "32").status == 1
    assert ask(*question, "--max_concurrency", "32", "--tp_size", "4").status == 0


def test_an_encoder_has_no_kv_cache(ask: Ask) -> None:
    question = ("--model_name", "bge-m3", "--gpu_name", "h100-sxm-80gb", "--num_tokens_to_generate", "1")
    line = next(x for x in ask("infer", *question, "--max_concurrency", "8").out.splitlines() if "KV cache per" in x)
    assert line.split()[-1] == "none"


@pytest.mark.parametrize(
    ("command", "flags", "remedy"),
    [
        ("infer", ("--max_concurrency", "8"), "--num_tokens_to_generate 1"),
        ("load", (), "--random_output_len 1"),
        ("plan", ("--request_rate", "8"), "infer and load take an encoder"),
    ],
)
def test_an_encoder_generates_nothing(ask: Ask, command: str, flags: tuple[str, ...], remedy: str) -> None:
    model = ("--model_name", "bge-m3", "--gpu_name", "h100-sxm-80gb")
    answer = ask(command, *model, *flags)
    assert (answer.status, answer.out) == (1, "")
    assert f"is an encoder and generates no tokens; {'' if command == 'plan' else 'give '}{remedy}" in answer.err
    assert ask("load", *model, "--random_output_len", "1", "--num_prompts", "50").status == 0


def test_the_answer_for_an_encoder_has_one_pass_and_no_decode(ask: Ask) -> None:
    out = ask("infer", "--model_name", "bge-m3", "--gpu_name", "h100-sxm-80gb", "--batch_size_per_gpu", "8").out
    assert "one pass" in out
    assert "sequences/s" in out
    for word in ("decode", "TPOT", "32 out", "(n - 1)", "positions"):
        assert word not in out


def test_the_longest_context_of_an_encoder_is_its_positions(ask: Ask) -> None:
    question = ("infer", "--model_name", "bert-base-uncased", "--gpu_name", "h100-sxm-80gb", "--seq_len", "512")
    assert json.loads(ask(*question, "--format", "json").out)["max_context_len"] == 512


def test_a_picture_leaves_csv_and_json_readable(ask: Ask, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    few = (*SERVER, "--num_prompts", "60", "--request_rate", "2,4", "--plot", str(tmp_path / "x.svg"))
    answer = ask(*few, "--format", "json")
    assert json.loads(answer.out)["points"]
    assert "wrote" in answer.err


def test_rates_may_be_a_range_and_limits_may_have_units(ask: Ask) -> None:
    flags = (*SERVER, "--num_prompts", "50", "--format", "json")
    found = json.loads(ask(*flags, "--request_rate", "1:4,6").out)
    assert [point["request_rate"] for point in found["points"]] == [1, 2, 4, 6]
    found = json.loads(ask(*flags, "--request_rate", "2", "--goodput", "ttft:0.5s,tpot:20ms,e2el:3000").out)
    assert found["goodput_limits"] == {"ttft": 0.5, "tpot": 0.02, "e2el": 3.0}


@pytest.mark.parametrize(("runtime", "noted"), [("vllm-v1", True), ("tensorrt-llm", False)])
def test_a_full_cache_of_an_engine_that_preempts_is_noted(ask: Ask, runtime: str, noted: bool) -> None:
    """A preempted request has its first token; the closed form counts its wait in TTFT."""
    server = ("--model_name", "llama-3.1-8b", "--gpu_name", "rtx-4090", "--runtime", runtime)
    answer = ask(
        *("infer", *server, "--seq_len", "64", "--num_tokens_to_generate", "1000"),
        *("--max_concurrency", "128", "--format", "json"),
    )
    assert any("running sequences are preempted" in note for note in json.loads(answer.out)["notes"]) == noted


@pytest.mark.parametrize("command", ["load", "infer"])
def test_a_runtime_that_is_simulated_with_another_server_has_a_note(ask: Ask, command: str) -> None:
    lengths = ("--random_input_len", "200", "--random_output_len", "20", "--num_prompts", "20", "--request_rate", "1")
    flags = lengths if command == "load" else ("--seq_len", "200", "--max_concurrency", "4")
    server = ("--model_name", "llama-3.1-8b", "--gpu_name", "rtx-4090", "--runtime", "llama.cpp")
    found = json.loads(ask(command, *server, *flags, "--format", "json").out)
    assert "server: scheduler and defaults of vLLM; those of llama.cpp are not known" in found["notes"]


@pytest.mark.parametrize("command", ["load", "infer"])
@pytest.mark.parametrize(
    ("server", "part"),
    [
        (("mamba-2.8b", "h100-sxm-80gb", "vllm-v1"), "no published measurement here is of a model with state-space"),
        (("llama-3.1-8b", "mi300x-192gb", "sglang-rocm"), "runtime sglang-rocm: uses the terms fitted to vLLM"),
        (("llama-3.1-8b", "a100-sxm-80gb", "vllm"), "was fitted to batches up to 64"),
    ],
)
def test_a_server_has_the_notes_on_the_evidence_of_its_runtime(
    ask: Ask, command: str, server: tuple[str, str, str], part: str
) -> None:
    model, gpu, runtime = server
    where = ("--model_name", model, "--gpu_name", gpu, "--runtime", runtime)
    lengths = ("--random_input_len", "128", "--random_output_len", "64", "--num_prompts", "400")
    flags = lengths if command == "load" else ("--seq_len", "128", "--num_tokens_to_generate", "64")
    found = json.loads(ask(command, *where, *flags, "--max_concurrency", "200", "--format", "json").out)
    assert any(part in note for note in found["notes"])


@pytest.mark.parametrize(("seq_len", "noted"), [(131000, True), (1000, False)])
def test_a_steady_state_beyond_the_positions_of_the_model_has_a_note(ask: Ask, seq_len: int, noted: bool) -> None:
    flags = ("--seq_len", str(seq_len), "--num_tokens_to_generate", "2000", "--max_concurrency", "2")
    found = json.loads(ask("infer", *SERVER[1:], *flags, "--format", "json").out)
    note = "133000 tokens of prompt and output are more than the 131072 positions of llama-3.1-8b"
    assert (note in found["notes"]) == noted
