"""The terminal on stdout: its width, and whether it shows colours."""

import os
import sys

PIPE = 80  # columns of a pipe or a file
NARROW, WIDE = 60, 160  # lines are wrapped to a width between these


def columns() -> int:
    """Return the width for tables and text: the width of the terminal within limits, 80 if stdout is no terminal."""
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return PIPE
    return min(max(width, NARROW), WIDE) if width else PIPE


def has_colours() -> bool:
    """Return whether stdout is a terminal with colours. NO_COLOR turns them off (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
