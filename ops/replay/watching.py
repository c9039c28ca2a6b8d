"""How far a replay is, on standard error: a bar on a terminal, else a line every ten seconds.

Owns the estimate of the time left. Nothing is printed to standard output: results are.
"""

from __future__ import annotations

import sys
import time
from typing import Final, Self

from callstate.events import format_time
from ops.replay.reading import Reached

_LINE_SECONDS: Final = 10.0


class Watching:
    """Shows what `tell` says."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._step = ""
        self._began = self._told_at = time.monotonic()
        self._first = 0
        self._bar: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")

    def tell(self, step: str, reached: Reached) -> None:
        """A step has come so far."""
        now = time.monotonic()
        if step != self._step:
            self._step, self._began, self._first = step, now, reached.records
        terminal = sys.stderr.isatty()
        if not terminal and now - self._told_at < _LINE_SECONDS:
            return
        self._told_at = now
        sys.stderr.write(
            f"\r{self.line(now, reached)}\x1b[K" if terminal else self.line(now, reached) + "\n"
        )
        sys.stderr.flush()

    def line(self, now: float, reached: Reached) -> str:
        """One line: step, share, rate, time left, and the time that the records are of."""
        seconds = now - self._began
        rate = (reached.records - self._first) / seconds if seconds > 0 else 0.0
        share = reached.records / self._records if self._records else 1.0
        left = (self._records - reached.records) / rate if rate else 0.0
        at = "" if reached.event_us is None else f", at {format_time(reached.event_us)[:19]}"
        full = round(20 * min(1.0, share))
        return (
            f"{self._step} [{'#' * full}{'.' * (20 - full)}] {share:4.0%}, "
            f"{rate:,.0f} records/s, {_time(left)} left{at}"
        )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
