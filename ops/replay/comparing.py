"""The service's CDRs of a range beside a replay's: which differ, and the digests of both.

Owns the statements. One join finds what differs, so that equal records never leave the database;
each difference is classified by `ops.replay.diff` and kept in `replay_ID_changes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from psycopg import sql
from psycopg.rows import dict_row

from callstate.cdr import TIME_COLUMNS
from callstate.events import format_time, parse_time_us
from ops.replay.diff import Change, Facts, Kind, Summary, classify
from ops.replay.digest import CdrDigest, Ledger, digest_of, key_of
from ops.replay.plan import Plan, Span
from ops.replay.shadow import Connection, table_names
from stream_app.copy_text import CDR_COLUMNS

_BATCH: Final = 2_000
_COMPARED: Final = CDR_COLUMNS[1:]

_IN_RANGE: Final = "start_time >= %(from)s::timestamp AND start_time < %(to)s::timestamp"

# Which calls the range is about: by the service's word or by the replay's, for a start may move.
_CALLS: Final = """
WITH calls AS (
    SELECT call_id FROM cdrs WHERE {in_range}
    UNION
    SELECT call_id FROM {cdrs} WHERE {in_range}
), compared AS (
    SELECT calls.call_id, held AS old, rebuilt AS new, why.revision AS old_revision,
        rebuilt.revision AS new_revision, why.watermark, why.suspect, rebuilt.start_lost,
        ({old_columns}) IS DISTINCT FROM ({new_columns}) AS differs,
        ceil(greatest(extract(epoch FROM held.end_time - held.connect_time), 0)) AS seconds
    FROM calls
    LEFT JOIN cdrs AS held USING (call_id)
    LEFT JOIN {cdrs} AS rebuilt USING (call_id)
    LEFT JOIN cdr_provenance AS why USING (call_id)
    WHERE (%(server)s::text IS NULL
           OR %(server)s = ANY(why.servers) OR %(server)s = ANY(rebuilt.servers))
      AND (%(calls)s::text[] IS NULL
           OR split_part(calls.call_id, ';from-tag=', 1) = ANY(%(calls)s))
)
"""
_DIFFERING: Final = """
SELECT call_id, to_jsonb(old) AS old, to_jsonb(new) AS new, old_revision, new_revision,
    watermark, suspect, start_lost
FROM compared WHERE differs ORDER BY call_id
"""
_EQUAL: Final = "SELECT count(*), coalesce(sum(seconds), 0)::int8 FROM compared WHERE NOT differs"


def differences(
    connection: Connection, replay_id: int, plan: Plan, watermark_us: int | None
) -> Iterator[Change]:
    """Every call of the range that is not the same, in the order of Call-IDs.

    Args:
        connection: To the sink.
        replay_id: Whose shadow tables.
        plan: What was read.
        watermark_us: How far the replay is complete; what was told later is newer.
    """
    with connection.transaction(), connection.cursor("differing", row_factory=dict_row) as cursor:
        cursor.itersize = _BATCH
        cursor.execute(_statement(replay_id, _DIFFERING), _values(plan))
        for row in cursor:
            new = row["new"]
            facts = Facts(
                old_revision=row["old_revision"],
                new_revision=row["new_revision"],
                told_later=_is_later(row["watermark"], watermark_us),
                start_lost=bool(row["start_lost"]),
                is_cut=plan.is_cut,
                suspect=bool(row["suspect"]),
            )
            # A call that is hidden in the replay has a row, without a record in it.
            rebuilt = None if new is None or new["start_time"] is None else new
            yield classify(row["call_id"], record(row["old"]), record(rebuilt), facts)


def compare(
    connection: Connection,
    writer: Connection,
    replay_id: int,
    plan: Plan,
    watermark_us: int | None,
) -> Summary:
    """Classifies all differences, keeps them in `replay_ID_changes`, and counts them.

    `writer` is another connection than the one that the differences are read from.
    """
    summary = Summary()
    names = table_names(replay_id)
    row = connection.execute(_statement(replay_id, _EQUAL), _values(plan)).fetchone()
    assert row is not None
    summary.unchanged, summary.unchanged_seconds = row
    writer.execute(sql.SQL("TRUNCATE {changes}").format(**names))
    batch: list[Change] = []
    for change in differences(connection, replay_id, plan, watermark_us):
        summary.add(change)
        batch.append(change)
        if len(batch) >= _BATCH:
            _keep(writer, names, batch)
            batch = []
    _keep(writer, names, batch)
    return summary


def _keep(
    connection: Connection, names: Mapping[str, sql.Identifier], changes: Sequence[Change]
) -> None:
    copy_to = sql.SQL("COPY {changes} FROM STDIN").format(**names)
    with connection.cursor() as cursor, cursor.copy(copy_to) as copy:
        for change in changes:
            copy.write_row(
                (
                    change.call_id,
                    [kind.value for kind in change.kinds],
                    change.applicable,
                    change.facts.new_revision,
                    orjson.dumps(change.to_json()).decode(),
                )
            )


def changes(
    connection: Connection,
    replay_id: int,
    *,
    kind: Kind | None = None,
    call_id: str | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Changes as `Change.to_json` tells them; those that cost or earn most first."""
    statement = sql.SQL(
        "SELECT change FROM {changes}"
        " WHERE (%(kind)s::text IS NULL OR %(kind)s = ANY(kinds))"
        " AND (%(call)s::text IS NULL OR call_id = %(call)s)"
        " ORDER BY abs((change->'billed_seconds'->>1)::int8"
        " - (change->'billed_seconds'->>0)::int8) DESC, call_id LIMIT %(limit)s::int8"
    ).format(**table_names(replay_id))
    values = {"kind": kind and kind.value, "call": call_id, "limit": limit}
    with connection.transaction(), connection.cursor("changes") as cursor:
        cursor.execute(statement, values)
        for row in cursor:
            yield row[0]


def reasons(connection: Connection, replay_id: int, call_id: str) -> dict[str, Any] | None:
    """Provenance of a changed call as the replay has it, times as ISO 8601 text."""
    statement = sql.SQL("SELECT to_jsonb(why) FROM {provenance} AS why WHERE call_id = %s").format(
        **table_names(replay_id)
    )
    row = connection.execute(statement, (call_id,)).fetchone()
    return None if row is None else row[0]


def changed_ids(connection: Connection, replay_id: int) -> list[str]:
    """Calls whose new record can be applied and has no reasons yet.

    Reasons of another revision are none: who was stopped while reading them had not read all.
    """
    statement = sql.SQL(
        "SELECT call_id FROM {changes} WHERE applicable AND NOT EXISTS (SELECT FROM {provenance}"
        " AS why WHERE why.call_id = {changes}.call_id AND why.revision = {changes}.revision)"
    ).format(**table_names(replay_id))
    return [row[0] for row in connection.execute(statement)]


# -- digests -------------------------------------------------------------------------------------


def digest_of_replay(connection: Connection, replay_id: int, span: Span) -> CdrDigest:
    """Of the replay's records of a range."""
    return _digest_of(connection, table_names(replay_id)["cdrs"], span)


def digest_of_service(connection: Connection, span: Span) -> CdrDigest:
    """Of the service's records of a range."""
    return _digest_of(connection, sql.Identifier("cdrs"), span)


def _digest_of(connection: Connection, table: sql.Identifier, span: Span) -> CdrDigest:
    columns = sql.SQL(", ").join(map(sql.Identifier, CDR_COLUMNS))
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
        columns, table, _in_range(span)
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        return digest_of(bytes(line) for line in copy)


def ledger_of_service(
    connection: Connection, span: Span, watermark_us: int | None
) -> tuple[Ledger, set[bytes]]:
    """The service's records of a range, and the keys of those that were told later than that."""
    ledger, later = Ledger(), set()
    columns = sql.SQL(", ").join(sql.Identifier("held", name) for name in CDR_COLUMNS)
    statement = sql.SQL(
        "COPY (SELECT coalesce(why.watermark > {}::timestamptz, false), why.revision, {}"
        " FROM cdrs AS held LEFT JOIN cdr_provenance AS why USING (call_id) WHERE {})"
        " TO STDOUT"
    ).format(
        sql.Literal(format_time(watermark_us) if watermark_us is not None else "infinity"),
        columns,
        _in_range(span),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in copy:
            is_later, revision, line = bytes(row).rstrip(b"\n").split(b"\t", 2)
            call_id = _unescaped(line[: line.index(b"\t")])
            ledger.add(call_id, line, 0 if revision == b"\\N" else int(revision), 0)
            if is_later == b"t":
                later.add(key_of(call_id))
    return ledger, later


_UNESCAPES: Final = {b: a for a, b in zip("\b\f\n\r\t\v\\", r"bfnrtv" + "\\", strict=True)}


def _unescaped(text: bytes) -> str:
    plain = text.decode()
    if "\\" not in plain:
        return plain
    parts = plain.split("\\")
    told, index = [parts[0]], 1
    while index < len(parts):
        part = parts[index]
        if part:
            told.append(_UNESCAPES.get(part[0], part[0]) + part[1:])
        elif index + 1 < len(parts):  # an escaped backslash: two in a row
            index += 1
            told.append("\\" + parts[index])
        index += 1
    return "".join(told)


def _in_range(span: Span) -> sql.Composed:
    return sql.SQL("start_time >= {}::timestamp AND start_time < {}::timestamp").format(
        sql.Literal(_moment(span.from_us)), sql.Literal(_moment(span.to_us))
    )


def _moment(time_us: int) -> str:
    return format_time(time_us).removesuffix("Z")


def _statement(replay_id: int, what: str) -> sql.Composed:
    def columns(table: str) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(table, name) for name in _COMPARED)

    return sql.SQL(_CALLS + what).format(
        in_range=sql.SQL(_IN_RANGE),
        old_columns=columns("held"),
        new_columns=columns("rebuilt"),
        **table_names(replay_id),
    )


def _values(plan: Plan) -> dict[str, Any]:
    return {
        "from": _moment(plan.span.from_us),
        "to": _moment(plan.span.to_us),
        "server": plan.server,
        "calls": list(plan.calls) or None,
    }


def record(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The columns that are compared, times as everywhere else: ISO 8601 in UTC."""
    if row is None:
        return None
    found = {name: row[name] for name in CDR_COLUMNS}
    for name in TIME_COLUMNS:
        if found[name] is not None:
            found[name] = format_time(parse_time_us(found[name]))
    return found


def _is_later(told_at: datetime | None, watermark_us: int | None) -> bool:
    if told_at is None or watermark_us is None:
        return False
    since = told_at.astimezone(UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds > watermark_us


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
