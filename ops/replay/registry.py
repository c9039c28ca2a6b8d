"""Replays as the sink remembers them: table `cdr_replays` and where each one goes on.

Owns their rows and states. Refuses to know what a replay does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Final

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from callstate.events import format_time
from ops.errors import OpsError, UsageError
from ops.replay.plan import Plan
from ops.replay.shadow import Connection

_LOCK_CLASS: Final = 0x63647278  # "cdrx": one process at a time drives a replay
_WRITERS_CLASS: Final = 0x63647277  # "cdrw": held by each process that fills its tables


class State(StrEnum):
    """How far a replay has come."""

    RUNNING = "running"
    DONE = "done"
    APPLIED = "applied"
    UNDONE = "undone"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Replay:
    """One row."""

    id: int
    state: State
    plan: Plan
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    version: str
    created_at: datetime
    finished_at: datetime | None = None
    applied_at: datetime | None = None
    undone_at: datetime | None = None
    swap: int | None = None
    told_at: datetime | None = None

    @property
    def is_untold(self) -> bool:
        """Whether listeners have not heard yet of all that its newest apply or undo has changed."""
        return self.swap is not None and self.told_at is None


@dataclass(frozen=True, slots=True)
class Part:
    """Where one partition goes on."""

    partition: int
    next_offset: int
    rows_written: int
    done: bool
    state: bytes | None


def add(connection: Connection, plan: Plan, settings: Mapping[str, Any]) -> Replay:
    """A new replay."""
    row = connection.execute(
        "INSERT INTO cdr_replays (from_time, to_time, plan, settings, version)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING id",
        (
            format_time(plan.span.from_us),
            format_time(plan.span.to_us),
            Jsonb(plan.to_json()),
            Jsonb(dict(settings)),
            version("cdrstream"),
        ),
    ).fetchone()
    assert row is not None
    return get(connection, row[0])


def get(connection: Connection, replay_id: int) -> Replay:
    """One replay.

    Raises:
        UsageError: There is none of that number.
    """
    for replay in listed(connection, replay_id):
        return replay
    raise UsageError(f"there is no replay {replay_id}", "see `cdrstream replay list`")


def listed(connection: Connection, replay_id: int | None = None) -> Iterator[Replay]:
    """All replays, the newest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT id, state, plan, settings, result, version, created_at, finished_at,"
            " applied_at, undone_at, swap, told_at FROM cdr_replays"
            " WHERE id = %(id)s OR %(id)s::int8 IS NULL ORDER BY id DESC",
            {"id": replay_id},
        )
        for row in cursor.fetchall():
            row["plan"] = Plan.from_json(row["plan"])
            row["state"] = State(row["state"])
            yield Replay(**row)


def finish(connection: Connection, replay_id: int, result: Mapping[str, Any]) -> None:
    """The replay is done; what it found."""
    connection.execute(
        "UPDATE cdr_replays SET state = 'done', result = %s, finished_at = now() WHERE id = %s",
        (Jsonb(dict(result)), replay_id),
    )


def set_state(connection: Connection, replay_id: int, state: State) -> None:
    """Another state; the moment is kept where there is a column for it."""
    connection.execute(
        "UPDATE cdr_replays SET state = %(state)s,"
        " applied_at = CASE WHEN %(state)s = 'applied' THEN now() ELSE applied_at END,"
        " undone_at = CASE WHEN %(state)s = 'undone' THEN now() ELSE undone_at END"
        " WHERE id = %(id)s",
        {"state": state.value, "id": replay_id},
    )


def begin_swap(connection: Connection, replay_id: int, *, is_told: bool) -> None:
    """Numbers an apply or undo, above all before it; to be called under the lock of swaps.

    The number is a time in seconds, so that it rises too where a database was restored from a copy
    that knows less swaps than listeners have heard of. `is_told`: nobody is to be told, unless
    somebody was not told of the swap before this one.
    """
    connection.execute(
        "UPDATE cdr_replays SET told_at ="
        " CASE WHEN %(told)s AND (swap IS NULL OR told_at IS NOT NULL) THEN now() END,"
        " swap = greatest("
        "extract(epoch FROM clock_timestamp())::int8,"
        " (SELECT coalesce(max(swap), 0) + 1 FROM cdr_replays)) WHERE id = %(id)s",
        {"id": replay_id, "told": is_told},
    )


def note_told(connection: Connection, replay_id: int) -> None:
    """All that it swapped has been told, durably."""
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        connection.execute(
            "UPDATE cdr_replays SET told_at = now() WHERE id = %s AND told_at IS NULL", (replay_id,)
        )


@contextmanager
def held(connection: Connection, replay_id: int) -> Iterator[None]:
    """This process drives the replay.

    Raises:
        OpsError: Another process does.
    """
    asked = (_LOCK_CLASS, replay_id % 2**31)
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", asked).fetchone()
    if row is None or not row[0]:
        raise OpsError(
            f"replay {replay_id} is at work in another process", "wait for it, or end that one"
        )
    try:
        # Processes whose driver was killed end at their next chunk: until then they write.
        writers = (_WRITERS_CLASS, replay_id % 2**31)
        connection.execute("SELECT pg_advisory_lock(%s, %s)", writers)
        connection.execute("SELECT pg_advisory_unlock(%s, %s)", writers)
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", asked)


def write_for(connection: Connection, replay_id: int) -> None:
    """This process fills the replay's tables, as long as the connection lives."""
    connection.execute(
        "SELECT pg_advisory_lock_shared(%s, %s)", (_WRITERS_CLASS, replay_id % 2**31)
    )


def parts(connection: Connection, replay_id: int) -> dict[int, Part]:
    """Where the partitions go on."""
    rows = connection.execute(
        "SELECT partition, next_offset, rows_written, done, state FROM cdr_replay_parts"
        " WHERE replay_id = %s",
        (replay_id,),
    )
    return {row[0]: Part(*row) for row in rows}


def keep_part(connection: Connection, replay_id: int, part: Part) -> None:
    """A partition goes on from here after a kill."""
    connection.execute(
        "INSERT INTO cdr_replay_parts (replay_id, partition, next_offset, rows_written, done,"
        " state) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (replay_id, partition) DO UPDATE SET next_offset = excluded.next_offset,"
        " rows_written = excluded.rows_written, done = excluded.done, state = excluded.state,"
        " updated_at = now()",
        (replay_id, part.partition, part.next_offset, part.rows_written, part.done, part.state),
    )


def forget_parts(connection: Connection, replay_id: int) -> None:
    """It begins anew, or never goes on."""
    connection.execute("DELETE FROM cdr_replay_parts WHERE replay_id = %s", (replay_id,))
