"""Calls in real time on real servers, at a steady rate, for those who measure how long things take.

Owns the rows and when each BYE was committed. Every call is answered and ends: two requests and two
answers on two servers, one BYE. Event times are the machine's clock.
"""

from __future__ import annotations

import heapq
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final, Self

import psycopg

from callstate.events import format_time

EVENTS_A_CALL: Final = 5
_RING_SECONDS: Final = 0.5
_TALK_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.01
_COLUMNS: Final = (
    "observer",
    "event_seq",
    "event_time",
    "event_type",
    "cseq",
    "call_id",
    "from_tag",
    "to_tag",
    "from_url",
    "to_url",
    "contact",
    "branch_id",
    "via_count",
    "caller_internal",
)
_INSERT: Final = (
    f"INSERT INTO call_state_events ({', '.join(_COLUMNS)}) "  # noqa: S608  names of our own
    f"VALUES ({', '.join('%s' for _ in _COLUMNS)})"
).encode()

Row = tuple[Any, ...]


class LiveCalls:
    """Writes from enter to exit; a connection a server, a transaction a tick.

    Attributes:
        begun: Wall time of the first row.
        finished: Wall time of the last one.
        ended: Call-ID to the wall time at which its BYE was committed.
        rows: How many were written.
    """

    def __init__(self, dsns: Sequence[str], events_a_second: float) -> None:
        self._dsns = dsns
        self._calls_a_second = events_a_second / EVENTS_A_CALL
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.ended: dict[str, float] = {}
        self.rows = 0
        self.begun = self.finished = 0.0
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True)
            for number in range(len(dsns))
        ]

    def __enter__(self) -> Self:
        self._run = uuid.uuid4().hex[:8]
        self.begun = time.time() + 0.2
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self.finished = time.time()
        if self._failure is not None:
            raise RuntimeError("a server did not take its rows") from self._failure

    def _write(self, server: int) -> None:
        try:
            with psycopg.connect(self._dsns[server]) as connection:
                self._write_for_ever(server, connection)
        except BaseException as error:
            self._failure = error
            raise

    def _write_for_ever(self, server: int, connection: psycopg.Connection[Any]) -> None:
        """Every writer knows all calls and writes what passes its server, in the order of time."""
        due: list[tuple[float, int, Row]] = []
        call = number = 0
        servers = len(self._dsns)
        while not self._stop.wait(_TICK_SECONDS):
            now = time.time()
            while (at := self.begun + call / self._calls_a_second) <= now:
                one, two = call % servers, (call + 1) % servers
                if server in (one, two):
                    for when, row in self._rows(call, at, outer=server == one):
                        number += 1
                        heapq.heappush(due, (when, number, row))
                call += 1
            rows = []
            while due and due[0][0] <= now:
                rows.append(heapq.heappop(due)[2])
            if rows:
                self._commit(connection, rows)

    def _commit(self, connection: psycopg.Connection[Any], rows: list[Row]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(_INSERT, rows)
        connection.commit()
        now = time.time()
        with self._lock:
            self.rows += len(rows)
            for row in rows:
                if row[3] == "E":
                    self.ended[row[5]] = now

    def _rows(self, call: int, at: float, *, outer: bool) -> list[tuple[float, Row]]:
        """When and what one of the call's two servers writes."""
        later = 0.0 if outer else 0.004
        answered = at + _RING_SECONDS + (0.004 if outer else 0.0)
        rows = [(at + later, "R"), (answered, "S")]
        if outer:
            rows.append((answered + _TALK_SECONDS, "E"))
        return [(when, self._row(call, when, kind, outer=outer)) for when, kind in rows]

    def _row(self, call: int, at: float, kind: str, *, outer: bool) -> Row:
        call_id = f"{self._run}-{call}@10.1.2.3"
        ended = kind == "E"
        return (
            f"10.1.1.{1 if outer else 2}:5060",
            call,
            format_time(round(at * 1_000) * 1_000)[:-4].replace("T", " "),
            kind,
            2 if ended else 1,
            call_id,
            f"f{call}",
            "" if kind == "R" else f"t{call}",
            f'"User {call % 3_000}" <sip:{call % 3_000}@example.com>;tag=f{call}',
            f"<sip:{call % 2_999}@example.com>" + ("" if kind == "R" else f";tag=t{call}"),
            "" if ended else f"<sip:{call % 3_000}@10.2.0.7:5060>",
            "" if ended else f"z9hG4bK-{call}-{int(outer)}",
            0 if ended else 1 if outer else 2,
            True if kind == "R" else None,
        )
