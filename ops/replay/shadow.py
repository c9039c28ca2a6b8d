"""The shadow tables of one replay: `replay_ID_cdrs` and `replay_ID_provenance`.

Owns their shape, the filling by COPY from a thread of its own, and their end. Tables are UNLOGGED:
they cost the service's database no log, and after a crash of the database the replay begins again.
A call may have several rows while it is filled; `settle` leaves the newest.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from ops.dsn import with_options
from ops.replay.partition import Told
from stream_app.copy_text import NO_CDR, cdr_line, escaped, provenance_line, text_array
from stream_app.sink import CallWrite

Connection = psycopg.Connection[Any]

_ROWS_A_COPY: Final = 5_000
_WAITING_MAX: Final = 4
SECOND_LOOK: Final = 2**40
"""Sequence numbers from here on are of calls that were looked at again as a whole."""

_CDRS: Final = """
CREATE UNLOGGED TABLE {cdrs} (
    call_id text NOT NULL, from_tag text, to_tag text, caller_aor text, callee_aor text,
    start_time timestamp, connect_time timestamp, end_time timestamp, termination char(1),
    failure_status int2, failure_reason text, call_direction char(1), reference text,
    caller_contact text, callee_contact text, caller_internal bool, callee_route text,
    revision int8 NOT NULL, hidden_reason text, start_lost bool NOT NULL, servers text[] NOT NULL,
    partition int4 NOT NULL, seq int8 NOT NULL
) WITH (autovacuum_enabled = false)
"""
_PROVENANCE: Final = """
CREATE UNLOGGED TABLE {provenance} (
    call_id text NOT NULL, revision int8, hidden_reason text, rule text, missing text[],
    suspect bool, servers text[], offsets jsonb, legs jsonb, inversions jsonb, changed jsonb,
    notes jsonb, events jsonb, late_events int4, events_dropped int4, watermark timestamptz,
    basis jsonb
) WITH (autovacuum_enabled = false)
"""
_CHANGES: Final = """
CREATE UNLOGGED TABLE {changes} (
    call_id text PRIMARY KEY, kinds text[] NOT NULL, applicable bool NOT NULL,
    revision int8, change jsonb NOT NULL
)
"""
# Of the rows of one call the newest revision, and of several alike the one that was told last.
_SETTLE: Final = """
DELETE FROM {cdrs} AS old USING {cdrs} AS newer
WHERE old.call_id = newer.call_id
  AND (old.revision, old.partition, old.seq) < (newer.revision, newer.partition, newer.seq)
"""


def connect(dsn: str, schema: str, name: str) -> Connection:
    """A session for shadow tables: UTC, and never in the way of others."""
    options = "-c timezone=UTC -c datestyle=ISO,YMD -c synchronous_commit=off -c lock_timeout=10s"
    connection: Connection = psycopg.connect(
        with_options(dsn, options), autocommit=True, connect_timeout=10, application_name=name
    )
    path = sql.SQL("SET search_path = {}").format(sql.Identifier(schema))
    connection.execute(path)
    return connection


def table_names(replay_id: int) -> dict[str, sql.Identifier]:
    """Placeholders of statements to the tables of a replay."""
    return {
        "cdrs": sql.Identifier(f"replay_{replay_id}_cdrs"),
        "provenance": sql.Identifier(f"replay_{replay_id}_provenance"),
        "changes": sql.Identifier(f"replay_{replay_id}_changes"),
    }


def create(connection: Connection, replay_id: int) -> None:
    """Makes the tables, empty."""
    names = table_names(replay_id)
    drop(connection, replay_id)
    for statement in (_CDRS, _PROVENANCE, _CHANGES):
        connection.execute(sql.SQL(statement).format(**names))


def drop(connection: Connection, replay_id: int) -> None:
    """Removes the tables; those that are not there are no error."""
    for name in table_names(replay_id).values():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))


def settle(connection: Connection, replay_id: int) -> None:
    """Leaves the newest row of each call, and makes it quick to find. Safe to do again."""
    names = table_names(replay_id)
    connection.execute(sql.SQL(_SETTLE).format(**names))
    for name, columns in (("call", "call_id"), ("start", "start_time")):
        index = sql.Identifier(f"replay_{replay_id}_{name}_index")
        connection.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
                index, names["cdrs"], sql.Identifier(columns)
            )
        )
    connection.execute(sql.SQL("ANALYZE {cdrs}").format(**names))


def row_of(call: CallWrite, partition: int, seq: int) -> str:
    """One line of COPY for a call that was told."""
    why = call.provenance
    hidden = "\\N" if call.hidden_reason is None else escaped(call.hidden_reason)
    line = f"{escaped(why.call_id)}\t{NO_CDR}" if call.cdr is None else cdr_line(call.cdr)
    lost = "t" if "start" in why.missing else "f"
    servers = escaped(text_array(why.servers))
    return f"{line}\t{why.revision}\t{hidden}\t{lost}\t{servers}\t{partition}\t{seq}\n"


def row_of_nobody(call_id: str, reason: str, partition: int, seq: int) -> str:
    """One line for a call of which nobody knows who called; any record of it goes before."""
    line = f"{escaped(call_id)}\t{NO_CDR}"
    return f"{line}\t0\t{escaped(reason)}\tt\t{{}}\t{partition}\t{seq}\n"


class ShadowWriter:
    """Fills `replay_ID_cdrs` from a thread of its own; what waits is bounded."""

    def __init__(self, dsn: str, schema: str, replay_id: int) -> None:
        self._connection = connect(dsn, schema, f"cdrstream replay {replay_id}")
        self._copy = sql.SQL("COPY {cdrs} FROM STDIN").format(**table_names(replay_id))
        self._lines: list[str] = []
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING_MAX)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def add(self, partition: int, told: Told, first_seq: int) -> int:
        """Takes what was told of a partition; the next sequence number."""
        seq = first_seq
        lines = self._lines
        for call in told.calls.values():
            lines.append(row_of(call, partition, seq))
            seq += 1
        for call_id, reason in told.nobody.items():
            lines.append(row_of_nobody(call_id, reason, partition, seq))
            seq += 1
        if len(lines) >= _ROWS_A_COPY:
            self._hand_over()
        return seq

    def flush(self) -> None:
        """Returns when everything is in the table.

        Raises:
            psycopg.Error: The database refuses, or is away.
        """
        self._hand_over()
        self._waiting.join()
        self._check()

    def close(self) -> None:
        """Ends the thread and the connection; what waits is thrown away."""
        if self._failure is None:
            self._waiting.put(None)
            self._thread.join(30)
        self._connection.close()

    def _hand_over(self) -> None:
        self._check()
        if self._lines:
            block = "".join(self._lines).encode("utf-8", "replace")
            self._lines = []
            self._waiting.put(block)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            block = self._waiting.get()
            try:
                if block is None:
                    return
                if self._failure is None:
                    with self._connection.cursor() as cursor, cursor.copy(self._copy) as copy:
                        copy.write(block)
            except BaseException as error:  # noqa: BLE001  told to whoever adds next
                self._failure = error
            finally:
                self._waiting.task_done()


def write_again(
    connection: Connection, replay_id: int, calls: Sequence[CallWrite], ids: Iterable[str]
) -> None:
    """Calls that were looked at as a whole take the place of what was told of them before."""
    names = table_names(replay_id)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "DELETE FROM {cdrs} WHERE call_id = ANY(%(ids)s) "
                "OR split_part(call_id, ';from-tag=', 1) = ANY(%(ids)s)"
            ).format(**names),
            {"ids": list(ids)},
        )
        with cursor.copy(sql.SQL("COPY {cdrs} FROM STDIN").format(**names)) as copy:
            for number, call in enumerate(calls):
                copy.write(row_of(call, 0, SECOND_LOOK + number).encode("utf-8", "replace"))
    write_reasons(connection, replay_id, calls)


def write_reasons(connection: Connection, replay_id: int, calls: Sequence[CallWrite]) -> None:
    """Provenance of some calls, in the place of what was written of them before."""
    names = table_names(replay_id)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("DELETE FROM {provenance} WHERE call_id = ANY(%s)").format(**names),
            ([call.call_id for call in calls],),
        )
        with cursor.copy(sql.SQL("COPY {provenance} FROM STDIN").format(**names)) as copy:
            for call in calls:
                copy.write(provenance_line(call.provenance, call.hidden_reason))
