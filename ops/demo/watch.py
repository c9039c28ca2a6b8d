"""One pair of eyes on the running demo: puts all facts together into a picture.

Owns which source tells which fact. Refuses to lay it out (`screen`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from ops.demo.facts import (
    Arrived,
    ServerFacts,
    SinkFacts,
    SinkWatch,
    Tail,
    lag_seconds,
    unread_bytes,
)
from ops.demo.plan import PARTITIONS
from ops.demo.screen import Picture
from ops.demo.source import TrafficSource
from ops.simulation.script import US
from ops.simulation.servers import ClockSpec

STATUS_TOPIC: Final = "sipx.status"
EVENTS_TOPIC: Final = "sipx.call-state-events"
STREAMING: Final = "streaming"


class Watch:
    """Asks everybody; used from one thread."""

    def __init__(
        self,
        bootstrap: str,
        dsns: Mapping[str, str],
        sink_dsn: str,
        kafka: Mapping[str, str] | None = None,
    ) -> None:
        self._dsns = dsns
        self._tail = Tail(bootstrap, STATUS_TOPIC, EVENTS_TOPIC, PARTITIONS, kafka)
        self._sink = SinkWatch(sink_dsn, EVENTS_TOPIC, PARTITIONS)

    def close(self) -> None:
        """Ends all connections."""
        self._tail.stop()
        self._sink.close()

    def streaming(self) -> set[str]:
        """Servers whose reader says that it streams, with a measured clock."""
        return {
            name
            for name, record in self._tail.fresh("reader:").items()
            if record.get("state") == STREAMING and record.get("clock_offset_us") is not None
        }

    def sink(self) -> SinkFacts | None:
        """How far the CDRs are."""
        return self._sink.look()

    def picture(
        self,
        source: TrafficSource,
        clocks: Mapping[str, ClockSpec],
        epoch_us: int,
        *,
        expected: int,
        waiting_for: str,
    ) -> Picture:
        """Everything at this moment."""
        readers = self._tail.fresh("reader:")
        slots = unread_bytes(self._dsns)
        now = time.time()
        servers = [
            self._server(name, source, readers.get(name), clocks[name], epoch_us, slots, now)
            for name in self._dsns
        ]
        return Picture(servers, self.sink(), expected, waiting_for, self._holder())

    def _server(
        self,
        name: str,
        source: TrafficSource,
        record: Mapping[str, Any] | None,
        clock: ClockSpec,
        epoch_us: int,
        slots: Mapping[str, tuple[bool, int]],
        now: float,
    ) -> ServerFacts:
        progress = source.progress[name]
        real_ms = clock.offset_us(round(now * US) - epoch_us) / 1_000
        active, unread = slots.get(name, (False, None))
        arrived = self._tail.arrived.get(name, Arrived())
        common: dict[str, Any] = {
            "name": name,
            "written": progress.written,
            "planned": progress.planned,
            "real_offset_ms": real_ms,
            "unread_bytes": unread,
            "arrived": arrived.rows,
            "again": arrived.again,
        }
        if record is None or not active:
            return ServerFacts(**common, state="nobody reads")
        offset_us, error_us = record.get("clock_offset_us"), record.get("clock_error_us")
        moved_us, told_us = record.get("progress_us"), record.get("time_us")
        return ServerFacts(
            **common,
            state=str(record.get("state")),
            capture_lag_seconds=None
            if moved_us is None or offset_us is None or told_us is None
            else lag_seconds(told_us, moved_us, offset_us),
            offset_ms=None if offset_us is None else offset_us / 1_000,
            error_ms=None if error_us is None else error_us / 1_000,
        )

    def _holder(self) -> str:
        """The server that most partitions of the workers wait for."""
        votes: dict[str, int] = {}
        for record in self._tail.fresh("worker:").values():
            for holder in _holders(record):
                votes[holder] = votes.get(holder, 0) + 1
        return max(sorted(votes), key=lambda name: votes[name], default="")


def _holders(record: Mapping[str, Any]) -> list[str]:
    partitions = record.get("partitions")
    values = partitions.values() if isinstance(partitions, Mapping) else partitions or ()
    return [str(one["holder"]) for one in values if isinstance(one, Mapping) and one.get("holder")]
