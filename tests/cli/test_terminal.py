"""The terminal: width, colours, and none of both in a pipe. The program runs on a pseudo-terminal of its own."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

INFER = ["infer", "--model_name", "llama-3.1-70b", "--gpu_name", "h100-sxm-80gb", "--batch_size", "8", "--isl", "2000"]
COLOUR = re.compile(r"\x1b\[\d+m")


def on_a_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What a terminal of that width shows of stdout and stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-m", "llm_analysis", *arguments]
    variables = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"} | environment
    running = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux reports the end of a pseudo-terminal as an input/output error
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    running.wait(timeout=60)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("arguments", [[*INFER, "--operators"], ["infer", "--help"]], ids=["infer", "help"])
def test_lines_fit_the_terminal(columns: int, arguments: list[str]) -> None:
    lines = COLOUR.sub("", on_a_terminal(columns, *arguments)).splitlines()
    stdout = [line for line in lines if not line.startswith("llm-analysis: does not fit")]
    # The numbers of a table need 80 columns; text is wrapped to fewer.
    assert max(map(len, stdout)) <= max(columns, 80)
    assert max(map(len, stdout)) > min(columns, 90) - 20


def test_a_wide_terminal_shows_the_time_of_each_resource() -> None:
    assert re.search(r"^prefill .* bound +compute +memory +launch +network$", on_a_terminal(120, *INFER), re.MULTILINE)
    assert re.search(r"^prefill .* bound$", on_a_terminal(100, *INFER), re.MULTILINE)


def test_the_binding_resource_has_a_colour_on_a_terminal_only() -> None:
    shown = on_a_terminal(80, *INFER)
    assert {COLOUR.sub("", word) for word in re.findall(r"\x1b\[\d+m\w[\w ]*", shown)} >= {"compute", "DOES NOT FIT"}
    plain = COLOUR.sub("", shown)
    assert on_a_terminal(80, *INFER, NO_COLOR="1") == plain
    assert on_a_terminal(80, *INFER, TERM="dumb") == plain
    piped = subprocess.run([sys.executable, "-m", "llm_analysis", *INFER], capture_output=True, text=True, check=True)
    assert sorted((piped.stdout + piped.stderr).splitlines()) == sorted(plain.splitlines())
