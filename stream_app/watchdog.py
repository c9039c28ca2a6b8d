"""Ends a worker that does not move though it should: its supervisor starts it afresh.

Owns the judgement. A sink or broker that is away is no stall: that is waited for.

A log that is shorter than what was read of it is another one than the worker believes.

Two ways to stand still: the event loop hangs (seen from a thread of its own, by a tick that stays
old over several looks, since a process that was frozen and woke has an old tick once); or the loop
lives but partitions with lag do not advance.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

EXIT_STALLED = 70


@dataclass(slots=True)
class Movement:
    """Judges partitions by two figures: where they are, and where their log ends."""

    stall_seconds: float
    _moved_at: dict[int, float] = field(default_factory=dict)
    _position: dict[int, int] = field(default_factory=dict)

    def excuse(self) -> None:
        """What has looked like a stall so far is none: the broker is away."""
        self._moved_at.clear()
        self._position.clear()

    def stalled(
        self, now: float, lags: Mapping[int, tuple[int, int | None]], *, excused: bool
    ) -> list[int]:
        """Partitions that have had lag and not moved for `stall_seconds`.

        Args:
            now: Monotonic seconds.
            lags: Partition to its position and its log's end.
            excused: Nobody can be expected to move now (sink or broker away).
        """
        for number in list(self._moved_at):
            if number not in lags:
                del self._moved_at[number], self._position[number]
        for number, (position, end) in lags.items():
            caught_up = end is None or position >= end
            if excused or caught_up or self._position.get(number) != position:
                self._moved_at[number] = now
                self._position[number] = position
        return sorted(
            number for number, moved in self._moved_at.items() if now - moved >= self.stall_seconds
        )


@dataclass(slots=True)
class Shortening:
    """Judges by the same figures whether a log ends before what was read of it.

    It must last: a new leader learns after a moment only how far the log is acknowledged.
    """

    patience_seconds: float = 5.0
    _since: dict[int, float] = field(default_factory=dict)

    def shortened(self, now: float, lags: Mapping[int, tuple[int, int | None]]) -> list[int]:
        """Partitions whose log has ended before their position for so long."""
        shorter = {n for n, (position, end) in lags.items() if end is not None and end < position}
        self._since = {number: self._since.get(number, now) for number in shorter}
        return sorted(n for n, since in self._since.items() if now - since >= self.patience_seconds)


class LoopWatch:
    """A thread that ends the process when the event loop no longer ticks."""

    def __init__(self, stall_seconds: float, look_seconds: float = 1.0) -> None:
        self._stall_seconds = stall_seconds
        self._look_seconds = look_seconds
        self._tick = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def tick(self) -> None:
        """The loop lives."""
        self._tick = time.monotonic()

    @property
    def seconds_ago(self) -> float:
        """Since the last tick."""
        return time.monotonic() - self._tick

    def stop(self) -> None:
        """Ends the looking."""
        self._stop.set()

    def _watch(self) -> None:
        seen, looks = self._tick, 0
        while not self._stop.wait(self._look_seconds):
            if self._tick != seen:
                seen, looks = self._tick, 0
                continue
            looks += 1
            if looks * self._look_seconds >= self._stall_seconds:
                log.critical(
                    "event_loop_stalled",
                    extra={
                        "seconds": round(looks * self._look_seconds),
                        "advice": "the supervisor restarts the worker",
                    },
                )
                os._exit(EXIT_STALLED)
