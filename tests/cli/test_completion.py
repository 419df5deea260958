"""Completion scripts: each is run by its shell, where the shell is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Ask

from llm_analysis.cli import main
from llm_analysis.cli.commands import infer
from llm_analysis.cli.flags import flags_of

LINES = [
    ("llm-analysis in", {"infer"}),
    ("llm-analysis infer --tp", {"--tp_size"}),
    ("llm-analysis infer --model_name test-13b --tp", {"--tp_size"}),
    ("llm-analysis infer --use_kv_cache --method", {"--method"}),
    ("llm-analysis infer --model_name llama-3.1", {"llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"}),
    ("llm-analysis infer --format m", {"markdown"}),
    ("llm-analysis gpus --min", {"--min_memory_GB"}),
]


def installed(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell}")


def output_of(shell: str, script: str) -> set[str]:
    """The first word of each line that a shell prints."""
    command = [shell, "--no-config", "-c", script] if shell == "fish" else [shell, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return {line.split("\t")[0] for line in done.stdout.split("\n") if line}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", ""])
def test_a_script_names_every_command_and_flag(ask: Ask, shell: str) -> None:
    answer = ask("--", "--completion", *([shell] if shell else []))
    assert (answer.status, answer.err) == (0, "")
    assert [name for name in (*main.COMMANDS, *flags_of(infer.infer)) if name not in answer.out] == []


@installed("bash")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_bash_completes_commands_flags_and_values(ask: Ask, line: str, wanted: set[str]) -> None:
    words = f'COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _llm_analysis; printf "%s\\n" '
    assert output_of("bash", f'{ask("--", "--completion", "bash").out}\n{words} "${{COMPREPLY[@]}}"') == wanted


@installed("zsh")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_zsh_runs_the_bash_function(ask: Ask, line: str, wanted: set[str]) -> None:
    """Only the function: zsh registers completions in interactive shells, and matches the prefix itself."""
    script = ask("--", "--completion", "zsh").out
    function = script[script.index("_llm_analysis()") : script.index("\ncomplete ")]
    words = f"COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _llm_analysis"
    run = f'run() {{\nemulate -L ksh\n{words}\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n}}\nrun'
    assert wanted <= output_of("zsh", f"autoload -U bashcompinit\nbashcompinit\n{function}\n{run}")


@installed("fish")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_fish_completes_commands_flags_and_values(ask: Ask, line: str, wanted: set[str]) -> None:
    script = ask("--", "--completion", "fish").out
    assert output_of("fish", f'{script}\ncomplete -C "{line}"') == wanted


def test_a_name_that_a_shell_would_expand_is_left_out(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(tmp_path))
    (tmp_path / "model_configs").mkdir()
    (tmp_path / "model_configs" / "$(touch x).json").write_text("{}")
    assert "touch" not in ask("--", "--completion", "bash").out
