"""The servers' own tables as a source, for those who have lost the topic.

Owns the merging of all tables into one stream in the order of corrected times, with heartbeats in
between that say what this order proves: nothing older is to come. Clocks are measured now, and
stamped as a backfill does, so that the traffic's word on a clock goes first. Reads only.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import orjson
import psycopg

from callstate.envelope import Heartbeat, Malformed, Record
from callstate.events import BadRow, Clock, format_time, parse_time_us, read_row
from cdc.clock_probe import Reading, best, compare
from ops.dsn import with_options
from ops.errors import OpsError, UsageError
from ops.replay.plan import PartPlan, Plan, Span
from ops.replay.source import Chunk, Late, Position

if TYPE_CHECKING:
    from ops.config import Config

REFERENCE: Final = ""
"""Key of the reference's connection string beside those of the servers."""

_OPTIONS: Final = (
    "-c timezone=UTC -c datestyle=ISO,YMD -c default_transaction_read_only=on "
    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
)
_CONNECT_SECONDS: Final = 10
_ROWS: Final = 2_000
_BEAT_US: Final = 1_000_000
_PROBE_ROUNDS: Final = 8
_COUNT: Final = b"""
SELECT count(*) FROM call_state_events
WHERE event_time >= %s::timestamp AND event_time < %s::timestamp
"""
_ROWS_OF: Final = b"""
SELECT to_jsonb(events)::text, event_time::text FROM call_state_events AS events
WHERE event_time >= %s::timestamp AND event_time < %s::timestamp ORDER BY event_time, id
"""
_CLOCK: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8"

# (corrected time, server, number, raw text): what `heapq.merge` puts in order.
_Row = tuple[int, str, int, str]


def plan_servers(
    config: Config,
    span: Span,
    margin_us: int,
    *,
    server: str | None = None,
    calls: Sequence[str] = (),
) -> Plan:
    """The plan for reading the configured servers' tables.

    Raises:
        UsageError: No server is configured.
        OpsError: One of them is away: without its rows calls would be torn.
    """
    if not config.servers:
        raise UsageError("--from-servers: no server is configured", "add a [[servers]] table")
    read_from_us = span.from_us - margin_us
    rows = 0
    until = _read_to_us(span, config.resolution.max_call_seconds)
    for name, found in config.servers.items():
        with _connect(name, found.dsn.get_secret_value()) as connection:
            row = connection.execute(_COUNT, (_moment(read_from_us), _moment(until))).fetchone()
            rows += row[0] if row else 0
    part = PartPlan(0, 0, rows + 1)
    return Plan(span, read_from_us, "servers", (part,), 1, server, tuple(calls))


class ServersSource:
    """Rows of all servers in one partition."""

    def __init__(
        self,
        servers: Mapping[str, str],
        plan: Plan,
        max_call_seconds: float,
        *,
        keys: Collection[bytes] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._servers = {name: dsn for name, dsn in servers.items() if name != REFERENCE}
        self._reference = servers.get(REFERENCE)
        self._plan = plan
        self._end_us = _read_to_us(plan.span, max_call_seconds)
        self._keys = None if keys is None else {key.decode("utf-8", "replace") for key in keys}
        self._is_stopped = is_stopped
        self._clocks: dict[str, Clock | None] = {}

    def only_late(self, partition: int, late: Late) -> None:
        """Nothing: tables are read up to the longest call's end and no further."""

    def chunks(self, positions: Mapping[int, Position]) -> Iterator[Chunk]:
        """As `Source` says; it has no positions to go on from and is read whole.

        Raises:
            OpsError: A server is away.
        """
        connections: list[psycopg.Connection[Any]] = []
        end = self._plan.parts[0].end
        if 0 in positions and positions[0].next_offset >= end:
            return
        try:
            self._clocks = self._measured()
            streams = []
            for name, dsn in self._servers.items():
                connections.append(_connect(name, dsn))
                streams.append(self._rows(connections[-1], name))
            yield from self._merged(heapq.merge(*streams), end)
        except psycopg.Error as error:
            raise OpsError(
                f"a server cannot be read: {' '.join(str(error).split())[:200]}",
                "all servers must be there: without one's rows calls would be torn",
            ) from error
        finally:
            for connection in connections:
                connection.close()

    def _merged(self, rows: Iterator[_Row], end: int) -> Iterator[Chunk]:
        batch: list[Record] = []
        read = total = crc = 0
        beat_us: int | None = None
        for time_us, server, _, text in rows:
            if beat_us is None or time_us - beat_us >= _BEAT_US:
                beat_us = time_us
                batch += self._beats(time_us)
            crc = crc32(text.encode(), crc)
            read += 1
            record = self._record(server, text)
            if record is not None:
                batch.append(record)
            if read >= _ROWS:
                total += read
                yield Chunk(0, batch, min(total, end - 1), read, crc)
                batch, read = [], 0
                if self._is_stopped():
                    return
        batch += self._beats(self._end_us)
        yield Chunk(0, batch, end, read, crc)

    def _record(self, server: str, text: str) -> Record | None:
        row = orjson.loads(text)
        if self._keys is not None and row.get("call_id") not in self._keys:
            return None
        try:
            return read_row(server, row, self._clocks[server])
        except BadRow as bad:
            return Malformed(str(bad.args[0]), server, text)

    def _beats(self, time_us: int) -> list[Record]:
        """What the order proves: no server has anything older than this moment."""
        beats: list[Record] = []
        for name in self._servers:
            clock = self._clocks[name]
            offset_us = 0 if clock is None else clock.offset_us
            beats.append(Heartbeat(name, time_us + offset_us, clock))
        return beats

    def _rows(self, connection: psycopg.Connection[Any], server: str) -> Iterator[_Row]:
        clock = self._clocks[server]
        offset_us = 0 if clock is None else clock.offset_us
        with connection.cursor("rows") as cursor:
            cursor.itersize = _ROWS
            bounds = (
                _moment(self._plan.read_from_us + offset_us),
                _moment(self._end_us + offset_us),
            )
            cursor.execute(_ROWS_OF, bounds)
            for number, (text, told_at) in enumerate(cursor):
                yield parse_time_us(told_at) - offset_us, server, number, text

    def _measured(self) -> dict[str, Clock | None]:
        """Each server's clock against the reference's, as of now; None: nobody can tell."""
        if self._reference is None:
            return dict.fromkeys(self._servers)
        with _connect("reference", self._reference) as connection:
            reference = _reading(connection)
        clocks: dict[str, Clock | None] = {}
        for name, dsn in self._servers.items():
            with _connect(name, dsn) as connection:
                measured = compare(_reading(connection), reference)
            clocks[name] = Clock(
                late=True, error_us=measured.error_us, offset_us=measured.offset_us
            )
        return clocks


def _reading(connection: psycopg.Connection[Any]) -> Reading:
    readings = []
    for _ in range(_PROBE_ROUNDS):
        before = time.monotonic_ns()
        row = connection.execute(_CLOCK).fetchone()
        after = time.monotonic_ns()
        assert row is not None
        half = (after - before) // 2
        readings.append(Reading(row[0], (before + half) // 1_000, half // 1_000 + 1))
    return best(readings)


def _connect(name: str, dsn: str) -> psycopg.Connection[Any]:
    try:
        return psycopg.connect(
            with_options(dsn, _OPTIONS),
            connect_timeout=_CONNECT_SECONDS,
            application_name="cdrstream replay",
        )
    except psycopg.Error as error:
        raise OpsError(
            f"server {name} cannot be read: {' '.join(str(error).split())[:200]}",
            "all servers must be there: without one's rows calls would be torn",
        ) from error


def _read_to_us(span: Span, max_call_seconds: float) -> int:
    """Up to when rows are read: the longest call that began in the range is over then."""
    after_us = round(max(0.0, max_call_seconds) * 1e6) + 3_600 * 1_000_000
    return min(span.to_us + after_us, time.time_ns() // 1_000)


def _moment(time_us: int) -> str:
    return format_time(time_us).removesuffix("Z")
