"""A reader's own position: what is wanted, what is stored.

Owns the rule "stored before confirmed". Refuses to know when to store.
"""

from __future__ import annotations

import time

from cdc.position_store import StoredPosition
from cdc.publisher import Publisher


class PositionKeeper:
    """Writes positions behind what they speak of; `stored` is the last one that Kafka holds."""

    def __init__(
        self, publisher: Publisher, topic: str, server: str, position: StoredPosition
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._server = server
        self._put_at = 0.0
        self.wanted = position
        self.stored = position

    def put(self, position: StoredPosition) -> None:
        """Stores `position`; everything that it covers must be acknowledged."""
        self.wanted = position
        self._put_at = time.monotonic()

        def done() -> None:
            self.stored = position

        self._publisher.send(self._topic, self._server, position.encode(self._server), done=done)

    def put_soon(self, position: StoredPosition, interval_seconds: float) -> None:
        """Stores `position` unless one was written less than an interval ago."""
        if time.monotonic() - self._put_at >= interval_seconds:
            self.put(position)
