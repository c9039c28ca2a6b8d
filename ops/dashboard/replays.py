"""Replays as they are kept in the sink: how far each is, what it found, old against new.

Owns the questions about them. Refuses to start, apply and undo: that is done on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import psycopg
from psycopg import sql

from ops.monitor.sources import Reconnecting, sink_dsn
from ops.monitor.watched import Watched

REPLAYS_MAX: Final = 20
CHANGES_MAX: Final = 20
_SHOWN_WITH_CHANGES: Final = 3

_REPLAYS: Final = """
SELECT r.id, r.state, r.from_time, r.to_time, r.plan, r.result, r.version, r.created_at,
    r.finished_at, r.applied_at, r.undone_at,
    coalesce(jsonb_object_agg(p.partition, p.next_offset) FILTER (WHERE p.partition IS NOT NULL),
        '{}') AS offsets,
    count(*) FILTER (WHERE p.done) AS parts_done, max(p.updated_at) AS updated_at
FROM cdr_replays AS r LEFT JOIN cdr_replay_parts AS p ON p.replay_id = r.id
GROUP BY r.id ORDER BY r.id DESC LIMIT %s
"""
_CHANGES: Final = """
SELECT change FROM {}
ORDER BY abs((change->'billed_seconds'->>1)::int8 - (change->'billed_seconds'->>0)::int8) DESC,
    call_id LIMIT %s
"""


def ask_replays(
    watched: Watched, changes_wanted: Callable[[], bool]
) -> Callable[[], list[dict[str, Any]]]:
    """The newest replays, and the changes of the newest few where somebody wants to see them.

    What a finished replay has found is looked up once.
    """
    connected = Reconnecting(sink_dsn(watched), "cdrstream dashboard")
    known: dict[tuple[int, Any], list[dict[str, Any]]] = {}

    def read(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
        there = connection.execute("SELECT to_regclass('cdr_replays') IS NOT NULL").fetchone()
        if not (there and there[0]):
            return []
        cursor = connection.execute(_REPLAYS, (REPLAYS_MAX,))
        names = [column.name for column in cursor.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
        for number, replay in enumerate(found):
            replay["records"] = records(replay["plan"], replay["offsets"], replay["state"])
            replay["share"] = progress(replay["records"], replay["state"])
            replay["summary"] = summary(replay["result"])
            shown = number < _SHOWN_WITH_CHANGES and replay["summary"] is not None
            key = (replay["id"], replay["state"])
            if shown and key not in known and changes_wanted():
                known[key] = list(_changes(connection, replay["id"]))
            replay["changes"] = known.get(key, []) if shown else []
        for key in known.keys() - {(replay["id"], replay["state"]) for replay in found}:
            del known[key]
        return found

    return lambda: connected(read)


def progress(read: tuple[int, int] | None, state: str) -> float | None:
    """Share of the records that were read; None where nobody knows how many there are."""
    if state != "running":
        return 1.0
    return None if read is None else read[0] / read[1]


def records(
    plan: Mapping[str, Any], offsets: Mapping[str, int], state: str
) -> tuple[int, int] | None:
    """How many records were read, of how many; None where the plan does not say."""
    parts = [part for part in plan.get("parts", ()) if {"partition", "start", "end"} <= part.keys()]
    planned = sum(int(part["end"] - part["start"]) for part in parts)
    if planned <= 0:
        return None
    if state != "running":
        return planned, planned
    done = sum(
        max(0, min(offsets.get(str(part["partition"]), part["start"]), part["end"]) - part["start"])
        for part in parts
    )
    return done, planned


def summary(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a finished replay has counted; None before, and where another version counted it."""
    told = result.get("summary")
    wanted = {"unchanged", "changed", "kinds", "causes", "minutes"}
    return told if isinstance(told, dict) and wanted <= told.keys() else None


def _changes(connection: psycopg.Connection[Any], replay_id: int) -> Iterator[dict[str, Any]]:
    """Those that cost or earn most first; none where the tables are gone, or not ours to read."""
    table = f"replay_{replay_id}_changes"
    may = connection.execute(
        "SELECT coalesce(has_table_privilege(to_regclass(%s), 'select'), false)", (table,)
    ).fetchone()
    if may and may[0]:
        statement = sql.SQL(_CHANGES).format(sql.Identifier(table))
        for (change,) in connection.execute(statement, (CHANGES_MAX,)):
            yield change
