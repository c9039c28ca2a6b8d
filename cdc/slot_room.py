"""How long a slot has before PostgreSQL throws away log that it needs.

Owns the forecast: `safe_wal_size` over the last minutes, and when that is worth a warning. Refuses
to ask the server; sans-IO.
"""

from __future__ import annotations

from collections import deque

_SAMPLES = 30
_SAMPLES_MIN = 3
_LOW_SHARE = 0.15


class SlotRoom:
    """The room that is left, and where it goes.

    Attributes:
        seconds_left: Until nothing is safe any more at the rate of the last minutes; None where
            the room does not shrink, or has no limit.
    """

    def __init__(self, warn_seconds: float) -> None:
        self._warn_seconds = warn_seconds
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self.seconds_left: float | None = None

    def add(self, at_seconds: float, safe_bytes: int | None) -> None:
        """Takes what `safe_wal_size` says; below 0 only a checkpoint is missing."""
        if safe_bytes is None:
            self._samples.clear()
            self.seconds_left = None
            return
        self._samples.append((at_seconds, safe_bytes))
        self.seconds_left = 0.0 if safe_bytes <= 0 else self._forecast(safe_bytes)

    def _forecast(self, safe_bytes: int) -> float | None:
        """By the tops of both halves: in quiet times the room falls and comes back like a saw."""
        samples = list(self._samples)
        if len(samples) < _SAMPLES_MIN:
            return None
        half = len(samples) // 2
        before = max(samples[:half], key=lambda sample: sample[1])
        since = max(samples[half:], key=lambda sample: sample[1])
        shrunk = before[1] - since[1]
        return safe_bytes * (since[0] - before[0]) / shrunk if shrunk > 0 else None

    def alarming(self, wal_status: str, retained_bytes: int | None) -> bool:
        """Whether an operator should know now."""
        if wal_status in ("unreserved", "lost"):
            return True
        if not self._samples:
            return False
        safe = self._samples[-1][1]
        low = safe < _LOW_SHARE * (safe + max(0, retained_bytes or 0))
        soon = self.seconds_left is not None and self.seconds_left < self._warn_seconds
        return low or soon
