"""Help text: the list of commands, and the flags of one command by group, wrapped to the width of the terminal."""

import textwrap
from collections.abc import Mapping

from llm_analysis.cli.flags import Declared, grouped
from llm_analysis.cli.terminal import columns

_WIDE = 120  # columns: longer lines of text are hard to read
_NAME = 24  # columns of the flag names; a longer name has a line of its own

_EXAMPLES = {
    "infer": (
        ("Llama-3.1-8B on one H100", "--model_name llama-3.1-8b --gpu_name h100-sxm-80gb"),
        (
            "70B in fp8 on four GPUs, 32 sequences of 2,000 tokens",
            "--model llama-3.1-70b --gpu h100-sxm-80gb --dtype fp8 --tp 4 --batch_size 32 --isl 2000",
        ),
        ("the speed of light as JSON", "--model test-13b --gpu a100-sxm-40gb --method ideal --format json"),
    ),
    "explain": (("what limits a batch of 16", "--model llama-3.1-8b --gpu h100-sxm-80gb --batch_size 16"),),
    "sweep": (
        (
            "batch sizes with a TPOT below 12 ms",
            '--model llama-3.1-8b --gpu h100-sxm-80gb --batch_size 1:256 --where "tpot<12ms"',
        ),
    ),
    "plan": (
        (
            "which of two GPUs for five requests per second, and how many",
            "--model llama-3.1-70b --gpu h100-sxm-80gb,h200-sxm-141gb --isl 4000 --osl 500 --request_rate 5 "
            "--max_ttft 1s --max_tpot 20ms",
        ),
    ),
    "plot": (
        ("what bounds each operator", "--kind roofline --model llama-3.1-8b --gpu h100-sxm-80gb"),
        (
            "latency and throughput over the batch size",
            "--kind batch --model llama-3.1-8b --gpu h100-sxm-80gb --output_file batch.svg",
        ),
    ),
    "compare": (("two GPUs", "--model llama-3.1-70b --gpu h100-sxm-80gb,h200-sxm-141gb --dtype fp8 --tp 4"),),
    "load": (
        (
            "eight requests per second, with limits on TTFT and TPOT",
            "--model llama-3.1-8b --gpu h100-sxm-80gb --request_rate 8 --goodput ttft:500,tpot:20",
        ),
    ),
}


def command_help(name: str, about: str, flags: Mapping[str, Declared]) -> str:
    """Return the help of one command: what it does, its flags by group, and examples."""
    width = min(columns(), _WIDE)
    parts = [f"usage: llm-analysis {name} [--flag value ...]", textwrap.fill(about, width)]
    for group, members in grouped(flags):
        title = [f"{group}:"] if group else []
        parts.append("\n".join([*title, *(_described(flag, width) for flag in members)]))
    examples = [f"  # {text}\n  llm-analysis {name} {line}" for text, line in _EXAMPLES.get(name, ())]
    return "\n\n".join([*parts, *(["\n".join(["Examples:", *_wrapped(examples, width)])] if examples else [])])


def _wrapped(examples: list[str], width: int) -> list[str]:
    """Return the lines of examples; a long command continues after a backslash."""
    lines = []
    for line in "\n".join(examples).split("\n"):
        pieces = textwrap.wrap(line, width - 2, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
        lines += [piece + " \\" for piece in pieces[:-1]] + pieces[-1:]
    return lines


def _described(flag: Declared, width: int) -> str:
    """Return the lines of one flag: its name, its text, its unit and its default."""
    text = flag.flag.text
    details = [flag.flag.unit] if flag.flag.unit else []
    details += [f"default {flag.default}"] if flag.default not in (None, "") else []
    whole = text + (f" ({'; '.join(details)})" if details else "")
    label = f"  --{flag.name}"
    indent = " " * (_NAME + 4)
    body = textwrap.fill(whole, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return label + body[len(label) :] if len(label) < len(indent) - 1 else f"{label}\n{body}"


def overview(commands: Mapping[str, str]) -> str:
    """Return all commands with what each does, one line each."""
    width = max(map(len, commands))
    rows = [f"  {name:<{width}}  {about}" for name, about in commands.items()]
    return "\n".join(
        [
            "llm-analysis: estimate latency, memory and cost of LLM inference. No GPU needed.",
            "",
            "usage: llm-analysis COMMAND [--flag value ...]",
            "",
            *rows,
            "",
            "llm-analysis COMMAND --help shows the flags of a command.",
            "llm-analysis -- --completion [bash|zsh|fish] prints a completion script.",
        ]
    )
