"""What a running reader says about its server besides rows: the slot's room, the tables' columns.

Owns the numbers' way into the metrics, and what the log says to an operator. Refuses to ask the
server and to judge by itself: `slot_room` and `drift` do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from cdc.drift import differences
from cdc.metrics import ReaderMetrics
from cdc.rows import Column
from cdc.settings import ReaderSettings
from cdc.slot import SlotState
from cdc.slot_room import SlotRoom

logger = logging.getLogger(__name__)

_WARN_AGAIN_SECONDS = 300.0


class RoomWatch:
    """Follows one slot; warns once in a while, with the time that is left."""

    def __init__(self, settings: ReaderSettings, metrics: ReaderMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._room = SlotRoom(settings.slot_warn_seconds)
        self._warned_at = float("-inf")

    def look(self, state: SlotState | None) -> None:
        """Takes the slot as the server sees it now; None: there is none."""
        metrics, room, now = self._metrics, self._room, time.monotonic()
        metrics.slot_checked_us = time.time_ns() // 1_000
        if state is None:
            metrics.slot_wal_status, metrics.slot_active = "missing", False
            return
        metrics.slot_active = state.active_pid is not None
        room.add(now, state.safe_wal_bytes)
        metrics.slot_wal_status = state.wal_status
        metrics.slot_safe_wal_bytes = state.safe_wal_bytes
        metrics.slot_retained_bytes = state.retained_bytes
        metrics.slot_unread_bytes = state.unread_bytes
        metrics.slot_seconds_left = room.seconds_left
        alarming = room.alarming(state.wal_status, state.retained_bytes)
        if alarming and now - self._warned_at > _WARN_AGAIN_SECONDS:
            self._warned_at = now
            self._warn(state)

    def _warn(self, state: SlotState) -> None:
        logger.warning(
            "slot_room_runs_out",
            extra={
                "server": self._settings.server,
                "slot": self._settings.slot_name,
                "wal_status": state.wal_status,
                "seconds_left": self._room.seconds_left,
                "safe_bytes": state.safe_wal_bytes,
                "retained_bytes": state.retained_bytes,
                "unread_bytes": state.unread_bytes,
                "advice": "Raise max_slot_wal_keep_size on that server now, then look for the"
                " cause: Kafka away, or a transaction that stays open.",
            },
        )


def say_columns(
    server: str, described: Iterable[tuple[str, Sequence[Column]]], metrics: ReaderMetrics
) -> None:
    """Says how the columns that the stream described differ from schema version 7."""
    for table, columns in described:
        different = differences(table, columns)
        if different:
            metrics.column_changes_total += 1
            logger.warning("columns_differ", extra={"server": server, "table": table, **different})
