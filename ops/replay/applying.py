"""A replay's records in the place of the service's, and back again.

Owns the swap: one transaction under the lock that the service's batches honour, so that nothing is
written between the look and the change. A record gives way only to one that rests on as many events
or more; whatever the service has learnt since stays. What is replaced is kept whole in
`cdr_history`, rows' ids too, and comes back from there. Refuses to tell anybody: it leaves a mark
that `ops.replay.telling` takes away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from ops.errors import OpsError
from ops.replay import registry
from ops.replay.registry import Replay, State
from ops.replay.shadow import Connection, table_names
from stream_app.copy_text import CDR_COLUMNS
from stream_app.sink import SWAP_LOCK_KEY

_LOCK_SECONDS: Final = 30
_WHY_COLUMNS: Final = (
    "revision",
    "hidden_reason",
    "rule",
    "missing",
    "suspect",
    "servers",
    "offsets",
    "legs",
    "inversions",
    "changed",
    "notes",
    "events",
    "late_events",
    "events_dropped",
    "watermark",
    "basis",
)

# What can be applied and still is what was compared: the service knows no more than the replay.
_CHOOSE: Final = """
CREATE TEMPORARY TABLE chosen ON COMMIT DROP AS
SELECT changes.call_id, rebuilt.start_time IS NOT NULL AS has_cdr, changes.change, why.revision
FROM {changes} AS changes
JOIN {cdrs} AS rebuilt USING (call_id)
JOIN {provenance} AS why USING (call_id)
LEFT JOIN cdr_provenance AS held USING (call_id)
WHERE changes.applicable AND coalesce(held.revision, 0) <= rebuilt.revision
  -- What was purged since stays away.
  AND (held.revision IS NOT NULL OR changes.change->'revisions'->>0 IS NULL)
"""
_REMEMBER: Final = """
INSERT INTO cdr_history (replay_id, call_id, revision, cdr, provenance)
SELECT {id}, chosen.call_id, chosen.revision, to_jsonb(cdrs), to_jsonb(why)
FROM chosen LEFT JOIN cdrs USING (call_id) LEFT JOIN cdr_provenance AS why USING (call_id)
"""
_PUT_REASONS: Final = """
INSERT INTO cdr_provenance (call_id, {columns}, replay_id)
SELECT call_id, {sources}, {id} FROM {provenance} AS why JOIN chosen USING (call_id)
ON CONFLICT (call_id) DO UPDATE SET {assigned}, replay_id = excluded.replay_id, resolved_at = now()
"""
_PUT_CDRS: Final = """
INSERT INTO cdrs ({columns})
SELECT {sources} FROM {cdrs} AS rebuilt JOIN chosen USING (call_id) WHERE chosen.has_cdr
ON CONFLICT (call_id) DO UPDATE SET {assigned}
"""
_REMOVE_CDRS: Final = """
DELETE FROM cdrs USING chosen WHERE cdrs.call_id = chosen.call_id AND NOT chosen.has_cdr
"""

# What the replay put there and nobody has written since.
_CHOOSE_BACK: Final = """
CREATE TEMPORARY TABLE chosen ON COMMIT DROP AS
SELECT kept.id, kept.call_id, kept.cdr, kept.provenance
FROM cdr_history AS kept JOIN cdr_provenance AS held USING (call_id)
WHERE kept.replay_id = {id} AND kept.undone_at IS NULL
  AND held.replay_id = {id} AND held.revision = kept.revision
"""
_BACK: Final = (
    # What the replay's revision has changed, the other way round.
    "UPDATE cdr_history AS kept SET undone_at = now(), taken_back = (SELECT"
    " coalesce(jsonb_object_agg(key, jsonb_build_array(value->1, value->0)), '{}')"
    " FROM jsonb_each(held.changed))"
    " FROM chosen JOIN cdr_provenance AS held USING (call_id) WHERE kept.id = chosen.id",
    "DELETE FROM cdrs USING chosen WHERE cdrs.call_id = chosen.call_id",
    "DELETE FROM cdr_provenance USING chosen WHERE cdr_provenance.call_id = chosen.call_id",
    "INSERT INTO cdrs SELECT (jsonb_populate_record(NULL::cdrs, cdr)).* FROM chosen"
    " WHERE cdr IS NOT NULL",
    "INSERT INTO cdr_provenance"
    " SELECT (jsonb_populate_record(NULL::cdr_provenance, provenance)).* FROM chosen"
    " WHERE provenance IS NOT NULL",
)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a swap did.

    Attributes:
        replaced: Calls whose record is now the replay's.
        left: Calls of which the service has learnt more meanwhile; they stay as they are.
    """

    replaced: int
    left: int


def check(
    replay: Replay, settings: Mapping[str, Any], *, accept_missing: bool, newest: int | None
) -> None:
    """Whether a replay may be applied at all.

    Args:
        replay: The replay.
        settings: The rules' settings of the service as it is configured now.
        accept_missing: The user knows that records of the range are gone.
        newest: Newest applied replay whose range overlaps.

    Raises:
        OpsError: It may not; the message says why, the advice what to do.
    """
    if replay.state not in (State.DONE, State.UNDONE):
        raise OpsError(
            f"replay {replay.id} is {replay.state.value}",
            {
                State.RUNNING: f"let it end: cdrstream replay --resume {replay.id}",
                State.APPLIED: f"take it back first: cdrstream replay undo {replay.id}",
                State.DROPPED: "make a new one",
            }[replay.state],
        )
    missing = replay.result.get("missing_until")
    if missing is not None and not accept_missing:
        raise OpsError(
            f"the topic's retention has eaten records of the range, up to {missing}",
            "what was not rebuilt stays as it is; --accept-missing applies the rest",
        )
    other = [
        f"{name} = {replay.settings.get(name)!r} (configured: {settings[name]!r})"
        for name in settings
        if settings[name] != replay.settings.get(name)
    ]
    if other:
        raise OpsError(
            f"replay {replay.id} was made with other settings than the service has: "
            + "; ".join(other),
            "configure them for the workers first: else their next revision takes it back",
        )
    if newest is not None and newest > replay.id:
        raise OpsError(
            f"replay {newest} is newer, is of the same time and has been applied",
            f"make a new replay, or take that one back: cdrstream replay undo {newest}",
        )


def newest_applied(connection: Connection, replay: Replay) -> int | None:
    """The newest replay of an overlapping range that is applied."""
    row = connection.execute(
        "SELECT max(other.id) FROM cdr_replays AS other JOIN cdr_replays AS this ON this.id = %s"
        " WHERE other.state = 'applied' AND other.from_time < this.to_time"
        " AND other.to_time > this.from_time",
        (replay.id,),
    ).fetchone()
    return None if row is None else row[0]


def apply(connection: Connection, replay: Replay, *, listeners: bool = True) -> Applied:
    """Puts all that can be applied in its place, in one durable transaction.

    Args:
        connection: To the sink.
        replay: As it was when it was checked.
        listeners: Whether revisions are told to anybody: then the replay is untold from here on.

    Raises:
        OpsError: It is not as it was any more; nothing is changed.
        psycopg.Error: The database is away or refuses; nothing is changed.
    """
    names = {**table_names(replay.id), "id": sql.Literal(replay.id)}
    with connection.transaction():
        _lock(connection, replay)
        _demand_tables(connection, replay)
        connection.execute(sql.SQL(_CHOOSE).format(**names))
        connection.execute("CREATE INDEX ON chosen (call_id)")
        connection.execute(sql.SQL(_REMEMBER).format(**names))
        replaced = connection.execute(
            sql.SQL(_PUT_REASONS).format(
                columns=_columns(_WHY_COLUMNS),
                sources=_sources(),
                assigned=_assigned(_WHY_COLUMNS),
                **names,
            )
        ).rowcount
        connection.execute(sql.SQL(_REMOVE_CDRS))
        connection.execute(
            sql.SQL(_PUT_CDRS).format(
                columns=_columns(CDR_COLUMNS),
                sources=_columns(CDR_COLUMNS, "rebuilt"),
                assigned=_assigned(CDR_COLUMNS[1:]),
                **names,
            )
        )
        left = connection.execute(
            sql.SQL("SELECT count(*) FROM {changes} WHERE applicable").format(**names)
        ).fetchone()
        registry.begin_swap(connection, replay.id, is_told=not listeners)
        registry.set_state(connection, replay.id, State.APPLIED)
    assert left is not None
    return Applied(replaced, left[0] - replaced)


def undo(connection: Connection, replay: Replay, *, listeners: bool = True) -> Applied:
    """Puts back what an applied replay has replaced, in one durable transaction.

    Raises:
        OpsError: It is not applied, or not any more.
        psycopg.Error: The database is away or refuses; nothing is changed.
    """
    if replay.state is not State.APPLIED:
        raise OpsError(f"replay {replay.id} is {replay.state.value}, not applied")
    names = {"id": sql.Literal(replay.id)}
    with connection.transaction():
        _lock(connection, replay)
        kept = connection.execute(
            "SELECT count(*) FROM cdr_history WHERE replay_id = %s AND undone_at IS NULL",
            (replay.id,),
        ).fetchone()
        back = connection.execute(sql.SQL(_CHOOSE_BACK).format(**names)).rowcount
        for statement in _BACK:
            connection.execute(statement.encode())
        registry.begin_swap(connection, replay.id, is_told=not listeners)
        registry.set_state(connection, replay.id, State.UNDONE)
    assert kept is not None
    return Applied(back, kept[0] - back)


def _lock(connection: Connection, replay: Replay) -> None:
    """Waits until no batch is being written, and keeps the next ones waiting.

    Raises:
        OpsError: Somebody else has applied the replay, or taken it back, since it was looked at.
    """
    # Shadow tables may be lost with the database's memory, what is billed may not.
    connection.execute("SET LOCAL synchronous_commit = on")
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'".encode())
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (SWAP_LOCK_KEY,))
    now = registry.get(connection, replay.id)
    if (now.state, now.swap) != (replay.state, replay.swap):
        raise OpsError(
            f"replay {replay.id} is {now.state.value} meanwhile: somebody else was quicker",
            f"look again: cdrstream replay show {replay.id}",
        )


def _demand_tables(connection: Connection, replay: Replay) -> None:
    """Returns where the shadow tables hold what the replay has found.

    They are unlogged: PostgreSQL empties them when it recovers from a crash.
    """
    found = connection.execute(
        sql.SQL("SELECT count(*) FROM {changes} WHERE applicable").format(**table_names(replay.id))
    ).fetchone()
    wanted = replay.result["summary"]["applicable"]
    if found is None or found[0] != wanted:
        raise OpsError(
            f"replay {replay.id} has lost its tables: {found and found[0]} of {wanted} changes"
            " are left, the database has recovered from a crash since",
            "make a new one of the same range",
        )


def _columns(names: tuple[str, ...], table: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.Identifier(name) if table is None else sql.Identifier(table, name) for name in names
    )


def _sources() -> sql.Composed:
    """The reasons' columns; what this revision changes is what the replay has found."""
    changed = sql.SQL(
        "(SELECT coalesce(jsonb_object_agg(name, jsonb_build_array("
        "chosen.change->'old'->name, chosen.change->'new'->name)), '{}')"
        " FROM jsonb_array_elements_text(chosen.change->'columns') AS name)"
    )
    return sql.SQL(", ").join(
        changed if name == "changed" else sql.Identifier("why", name) for name in _WHY_COLUMNS
    )


def _assigned(names: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names
    )
