"""Whether an event loop lives, told to those who ask from outside it.

Owns the beat and for how long it may be missed. Asks nobody else: a broker that is away is no
reason to restart.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

ALIVE_SECONDS: Final = 10.0


class Pulse:
    """Whether an event loop lives, as another thread sees it."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    async def beat_for_ever(self) -> None:
        """On the loop."""
        while True:
            self._at = time.monotonic()
            await asyncio.sleep(1.0)

    def alive(self) -> bool:
        """On any thread."""
        return time.monotonic() - self._at < ALIVE_SECONDS
