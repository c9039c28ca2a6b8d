"""How fast a replay may go, so that the service beside it does not feel it.

Owns the waiting. A replay is never in a hurry: it also asks the machine for the last place in line.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

_NICE: Final = 10
_BURST_SECONDS: Final = 0.1


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


def step_back() -> None:
    """Gives other processes of this machine precedence."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICE)
