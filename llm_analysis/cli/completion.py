"""Completion scripts for bash, zsh and fish: commands, flags, and the values of flags that take known names.

Fire can write such scripts too, but its bash script (0.7) stops at the first flag value, its fish script offers no
flags, and neither completes values. So `-- --completion` prints the scripts of this file.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from llm_analysis import catalog
from llm_analysis.cli.flags import Declared
from llm_analysis.cli.output import LOG_LEVELS
from llm_analysis.inference.runtimes import runtime_names
from llm_analysis.physics.dtypes import EVERYDAY

_SHELLS = ("bash", "zsh", "fish")
_FILES = ("model_name", "gpu_name", "runtime", "measurements", "output_dir", "output_file")  # may be a path
_PLAIN = re.compile(r"[A-Za-z0-9._+-]+")
_WORDS: Mapping[str, Iterable[str]] = {"dtype_name": EVERYDAY, "log_level": LOG_LEVELS}
_NAMES: Mapping[str, Callable[[], Sequence[str]]] = {
    "model_name": partial(catalog.names, "model_configs"),
    "draft_model_name": partial(catalog.names, "model_configs"),
    "gpu_name": partial(catalog.names, "gpu_configs"),
    "runtime": runtime_names,
}
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
_BASH = """_llm_analysis() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "$prev" in
{values}
      *) case "${{COMP_WORDS[1]}}" in
{flags}
      esac ;;
    esac
  fi
  COMPREPLY=( $(compgen -W "$words" -- "$cur") )
}}
complete -o default -F _llm_analysis llm-analysis
"""


def script(shell: str, commands: Mapping[str, tuple[str, Mapping[str, Declared]]]) -> str:
    """Return the script for a shell. `commands` holds the help line and the flags of each command."""
    if shell == "fish":
        return "\n".join(_fish(commands))
    flags = {name: " ".join(f"--{flag}" for flag in found) for name, (_, found) in commands.items()}
    every = {flag.name: flag for _, found in commands.values() for flag in found.values() if flag.kind is not bool}
    values = {f"--{name}": " ".join(_values(flag)) for name, flag in every.items()}
    text = _BASH.format(
        commands=" ".join(commands),
        values="\n".join(f'      {name}) words="{known}" ;;' for name, known in values.items()),
        flags="\n".join(f'        {name}) words="{known}" ;;' for name, known in flags.items()),
    )
    return (_ZSH if shell == "zsh" else "") + text


def _fish(commands: Mapping[str, tuple[str, Mapping[str, Declared]]]) -> list[str]:
    """Return the lines of the script for fish, which shows the help line beside each word."""
    lines = ["complete -c llm-analysis -f"]
    for command, (about, flags) in commands.items():
        lines.append(f"complete -c llm-analysis -n __fish_use_subcommand -a {command} -d {_quoted(about)}")
        for flag in flags.values():
            value = "" if flag.is_switch else " -r -F" if flag.name in _FILES else " -x"
            known = f" -a {_quoted(' '.join(found))}" if (found := _values(flag)) else ""
            condition = _quoted(f"__fish_seen_subcommand_from {command}")
            lines.append(
                f"complete -c llm-analysis -n {condition} -l {flag.name}{value}{known} -d {_quoted(flag.flag.text)}"
            )
    return lines


def _values(flag: Declared) -> Sequence[str]:
    """Return the known values of a flag; nothing if there are none. Names that a shell could expand are left out."""
    found = _NAMES[flag.name]() if flag.name in _NAMES else flag.flag.words or _WORDS.get(flag.name, ())
    return [value for value in found if _PLAIN.fullmatch(value)]


def _quoted(text: str) -> str:
    """Return a text in single quotes, as fish reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
