"""How many CDRs are told a minute, by outcome, as the sink's counters tell it.

Owns the window. The counters move with their partitions, so that they only grow whoever works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

WINDOW_SECONDS: Final = 60.0
_LEAST_SECONDS: Final = 5.0  # of watching before a rate is told

Counts = Mapping[str, int]


class Pace:
    """Fed by every picture."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Counts]] = deque()

    def per_minute(self, at: float, told: Counts | None) -> dict[str, float] | None:
        """Outcome to CDRs a minute over the last one; None where the sink does not answer."""
        seen = self._seen
        if told is None:
            seen.clear()
            return None
        if not seen or at > seen[-1][0]:
            seen.append((at, told))
        while len(seen) > 2 and seen[1][0] <= at - WINDOW_SECONDS:
            seen.popleft()
        begun, before = seen[0]
        seconds = at - begun
        if seconds < _LEAST_SECONDS:
            return None
        return {
            outcome: max(0, count - before.get(outcome, 0)) * 60 / seconds
            for outcome, count in told.items()
        }
