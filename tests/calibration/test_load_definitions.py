"""What the notes of published runs under load say beyond their columns."""

from pathlib import Path

import pytest

from llm_analysis.calibration.load_definitions import lengths_of, requests_of
from llm_analysis.calibration.load_estimates import prepare
from llm_analysis.calibration.load_runs import LoadRun, read_runs

COLUMNS = (
    "id,source,runtime,runtime_version,model_name,gpu_name,dtype_name,arrival,request_rate_per_s,num_requests,dataset,"
    "mean_input_tokens,mean_output_tokens,length_distribution,metric,value,notes\n"
)
SEEDED = "ShareGPT (vllm bench serve sampling, seed 0)"


def runs_of(path: Path, *rows: str) -> list[LoadRun]:
    path.write_text(COLUMNS + "".join(f"{i},x,{row}\n" for i, row in enumerate(rows)))
    runs, skipped = read_runs(path)
    assert skipped == []
    return runs


def row(
    rate: float,
    *,
    engine: str = "vllm-v1,0.8.5",
    model: str = "llama-3.1-8b",
    gpu: str = "h100-pcie-80gb",
    count: int = 200,
    lengths: str = SEEDED,
) -> str:
    return f'{engine},{model},{gpu},fp16,poisson,{rate:g},{count},ShareGPT,200,200,"{lengths}",ttft_median,0.02,'


def test_runs_with_the_same_seed_find_the_prompts_of_the_first_in_the_prefix_cache(tmp_path: Path) -> None:
    slow, fast = runs_of(tmp_path / "m.csv", row(4), row(32))
    assert (slow.repeats_prompts, fast.repeats_prompts) == (True, False)
    # all but the last block of 16 tokens, of which 1 to 16 are computed
    assert prepare(slow).policy.cached_prefix == pytest.approx(1 - 8.5 / 200)
    assert prepare(fast).policy.cached_prefix == 0


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "vllm,0.7.3"},  # no prefix cache without a flag
        {"gpu": "rtx-4090"},  # a cache of 41,000 tokens, and 80,000 pass before a prompt comes again
        {"lengths": "ShareGPT"},  # no seed is stated
    ],
)
def test_no_prompt_is_found_in_a_small_or_missing_cache_or_without_a_seed(
    tmp_path: Path, other: dict[str, str]
) -> None:
    slow, _ = runs_of(tmp_path / "m.csv", row(4, **other), row(32, **other))  # type: ignore[arg-type]
    assert prepare(slow).policy.cached_prefix == 0


def test_a_stated_hit_rate_replaces_what_is_inferred(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    head = COLUMNS.strip() + ",prefix_cache_hit_rate\n"
    path.write_text(f"{head}0,x,{row(4)},0.3\n1,x,{row(8)},0\n2,x,{row(32)},\n3,x,{row(16)},1.5\n")
    runs, skipped = read_runs(path)
    assert [prepare(run).policy.cached_prefix for run in runs] == [0.3, 0.0, 0.0]
    assert skipped == [("3", "prefix_cache_hit_rate must be from 0 to below 1, not 1.5")]


def test_other_prompts_or_another_server_are_no_repetition(tmp_path: Path) -> None:
    runs = runs_of(tmp_path / "m.csv", row(4), row(8, count=300), row(16, gpu="h100-sxm-80gb"))
    assert not any(run.repeats_prompts for run in runs)


def test_a_median_near_the_mean_excludes_the_long_tail_of_sharegpt(tmp_path: Path) -> None:
    even, tailed = runs_of(
        tmp_path / "m.csv",
        row(4, lengths="suite's stated quantiles: in p50 210, p99 2100; out p50 150, capped at 256"),
        row(4, lengths="suite's stated quantiles: in p50 100, p99 2100; out p50 150, capped at 256"),
    )
    for run in (even, tailed):
        assert lengths_of(run)[0].mean == pytest.approx(200, rel=0.01)
        assert lengths_of(run)[1].longest == 256
    assert lengths_of(even)[0].longest == 400
    assert lengths_of(tailed)[0].longest > 800


def test_the_longest_context_bounds_a_pass_of_an_engine_that_does_not_cut_prompts(tmp_path: Path) -> None:
    long, short, cut = runs_of(
        tmp_path / "m.csv",
        row(4, engine="vllm,0.7.3") + "max_model_len 4096",
        row(4, engine="vllm,0.7.3") + "max_model_len 512",
        row(4) + "max_model_len 4096",
    )
    assert [prepare(run).policy.max_num_batched_tokens for run in (long, short, cut)] == [4096, 2048, 8192]


def test_long_prompts_of_accelmark_are_100(tmp_path: Path) -> None:
    long, short = runs_of(tmp_path / "m.csv", row(4).replace("ShareGPT,", "sharegpt_longctx_v1,"), row(4))
    assert (requests_of(long), requests_of(short)) == (100, 200)
