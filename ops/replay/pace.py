"""How fast a replay may go, so that the service beside it does not feel it.

Owns the waiting. A replay is never in a hurry: it also asks the machine for the last place in line.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from ops.replay.source import BATCH_RECORDS

_NICE: Final = 10
_BURST_SECONDS: Final = 0.1
_BATCH_LEAST: Final = 100


class Pace:
    """At most so many records a second; 0: as many as there are."""

    def __init__(self, records_per_second_max: float) -> None:
        self._rate = records_per_second_max
        self._due = time.monotonic()

    def note(self, records: int) -> None:
        """Waits until this many more may have been read."""
        if self._rate <= 0:
            return
        now = time.monotonic()
        self._due = max(self._due, now - _BURST_SECONDS) + records / self._rate
        if self._due > now:
            time.sleep(self._due - now)


def batch_of(records_per_second_max: float) -> int:
    """Records to fetch at once: a tenth of a second's worth, so that the pace is even."""
    if records_per_second_max <= 0:
        return BATCH_RECORDS
    return max(_BATCH_LEAST, min(BATCH_RECORDS, round(records_per_second_max * _BURST_SECONDS)))


def step_back() -> None:
    """Gives other processes of this machine precedence."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICE)
