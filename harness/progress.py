"""Progress of long stages: one line that is rewritten on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

QUIET_S = 2.0
"""Stages shorter than this print nothing but their end."""
LOG_EVERY_S = 15.0
"""Seconds between lines where there is no terminal."""


def spell_time(seconds: float) -> str:
    """Minutes and seconds.

    >>> spell_time(83.4)
    '1:23'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Stage:
    """Progress of one stage, with the time left estimated from the rate so far."""

    def __init__(self, name: str, unit: str = "", stream: TextIO | None = None) -> None:
        self._name, self._unit = name, unit
        self._stream = stream or sys.stderr
        self._began = self._printed = time.monotonic()
        self._first: int | None = None
        self._live = self._stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` is finished; work found finished does not count for the rate."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        wait = 0.1 if self._live else LOG_EVERY_S
        # The end is told by `close`, so that a finished stage that waits for another says nothing.
        if now - self._began < QUIET_S or now - self._printed < wait or done >= total:
            return
        self._printed = now
        fresh = done - self._first
        left = spell_time((now - self._began) / fresh * (total - done)) if fresh > 0 else "?"
        share = done / max(1, total)
        text = f"{self._name:<22} {done:>7,}/{total:,} {self._unit}".ljust(48) + f"{share:>5.0%}  ETA {left}"
        self._stream.write(f"\r\x1b[2K{text}" if self._live else f"{text}\n")
        self._stream.flush()

    def close(self, note: str = "") -> float:
        """Print the stage's last line; returns its seconds."""
        took = time.monotonic() - self._began
        text = f"{self._name:<22} done in {spell_time(took)}" + (f"  ({note})" if note else "")
        self._stream.write(f"\r\x1b[2K{text}\n" if self._live else f"{text}\n")
        self._stream.flush()
        return took
