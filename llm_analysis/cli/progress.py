"""Long commands: a progress bar on a terminal, and an orderly stop on Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PATIENCE = 1.0  # seconds before the bar appears
_EVERY = 0.1  # seconds between updates
_WIDTH = 30


class Progress:
    """A bar on stderr for work of `total` points; nothing is shown in a pipe, or for work of less than a second."""

    def __init__(self, total: int, unit: str = "points") -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.interrupted = False  # whether Ctrl-C stopped the work
        self._start, self._last, self._shown = time.monotonic(), 0.0, False
        self._terminal = sys.stderr.isatty()

    def add(self, points: int) -> None:
        """Count points as done."""
        self.done += points
        now = time.monotonic()
        if self._terminal and now - self._start > _PATIENCE and now - self._last > _EVERY:
            self._last, self._shown = now, True
            share = min(self.done / max(self.total, 1), 1.0)
            bar = "#" * round(share * _WIDTH)
            rate = self.done / (now - self._start)
            text = f"[{bar:<{_WIDTH}}] {share:4.0%} of {self.total:,} {self.unit}, {rate:,.0f}/s"
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the bar."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


class Interrupt:
    """Whether the user pressed Ctrl-C."""

    pressed = False


@contextmanager
def orderly_stop() -> Iterator[Interrupt]:
    """Set `pressed` at the first Ctrl-C, for the body to check between two blocks; the second one stops at once."""
    found = Interrupt()

    def mark(number: int, frame: FrameType | None) -> None:
        if found.pressed:
            raise KeyboardInterrupt
        found.pressed = True

    try:
        before = signal.signal(signal.SIGINT, mark)
    except ValueError:  # signals can be handled in the main thread only
        yield found
        return
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
