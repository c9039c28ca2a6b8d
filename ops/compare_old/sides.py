"""Both sides of the comparison, read side by side in one snapshot of the database.

Owns the statements, the range that is compared, and where the old resolver's way of writing differs
without meaning anything. Holds a few thousand rows at a time, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from callstate.cdr import Cdr
from ops.errors import OpsError

_COLUMNS: Final = tuple(name.replace("_time_us", "_time") for name in Cdr._fields)
_OPTIONS: Final = "-c timezone=UTC -c default_transaction_read_only=on"
_ITERSIZE: Final = 2_000
_NO_TAG: Final = "1"  # what the old resolver writes where no event knows the callee's tag
_WHY: Final = (
    "call_id",
    "hidden_reason",
    "servers",
    "offsets",
    "missing",
    "legs",
    "late_events",
    "inversions",
    "suspect",
    "notes",
    "basis",
)

# A call is compared if either side has it in the range: a clock that was corrected may have moved
# it over the edge on one side.
_SIDE: Final = """
SELECT {columns} FROM {side} AS one JOIN (
    SELECT call_id FROM {old} WHERE {within} UNION SELECT call_id FROM {new} WHERE {within}
) AS asked USING (call_id)
ORDER BY one.call_id COLLATE "C"
"""
_WITHIN: Final = (
    "start_time >= %(begin)s::timestamp"
    " AND coalesce(end_time, connect_time, start_time) < %(end)s::timestamp"
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Range:
    """Calls that began at or after `begin` and ended before `end`; naive, UTC."""

    begin: datetime
    end: datetime


class Sides:
    """One snapshot of the database that holds both."""

    def __init__(
        self, connection: psycopg.Connection[Any], old_schema: str, new_schema: str
    ) -> None:
        self._connection = connection
        self._old = sql.Identifier(old_schema, "cdrs")
        self._new = sql.Identifier(new_schema, "cdrs")
        self._new_schema = new_schema

    def watermark(self, topic: str) -> datetime | None:
        """Up to when our side is complete, naive in UTC; None before the first."""
        statement = sql.SQL(
            "SELECT min(watermark) AT TIME ZONE 'UTC' FROM {} WHERE topic = %s"
            " HAVING count(*) = count(watermark)"
        ).format(sql.Identifier(self._new_schema, "sink_progress"))
        row = self._connection.execute(statement, (topic,)).fetchone()
        return None if row is None else row[0]

    def first_start(self) -> datetime | None:
        """When our first call began."""
        statement = sql.SQL("SELECT min(start_time) FROM {}").format(self._new)
        row = self._connection.execute(statement).fetchone()
        return None if row is None else row[0]

    def olds(self, within: Range) -> Iterator[Row]:
        """The old resolver's records, sorted by Call-ID."""
        for row in self._rows(self._old, "old_cdrs", within):
            yield {**row, "to_tag": ""} if row.get("to_tag") == _NO_TAG else row

    def news(self, within: Range) -> Iterator[Row]:
        """Ours, sorted by Call-ID."""
        return self._rows(self._new, "new_cdrs", within)

    def why(self, call_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Our provenance of these calls, without their events."""
        statement = sql.SQL("SELECT {} FROM {} WHERE call_id = ANY(%s)").format(
            sql.SQL(", ").join(map(sql.Identifier, _WHY)),
            sql.Identifier(self._new_schema, "cdr_provenance"),
        )
        with self._connection.cursor(row_factory=dict_row) as cursor:
            rows: Iterable[dict[str, Any]] = cursor.execute(statement, (list(call_ids),))
            return {row["call_id"]: row for row in rows}

    def _rows(self, side: sql.Identifier, name: str, within: Range) -> Iterator[Row]:
        statement = sql.SQL(_SIDE).format(
            columns=sql.SQL(", ").join(sql.Identifier("one", column) for column in _COLUMNS),
            side=side,
            old=self._old,
            new=self._new,
            within=sql.SQL(_WITHIN),
        )
        with self._connection.cursor(name, row_factory=dict_row) as cursor:
            cursor.itersize = _ITERSIZE
            cursor.execute(statement, {"begin": within.begin, "end": within.end})
            yield from cursor


@contextmanager
def both_sides(dsn: str, old_schema: str, new_schema: str) -> Iterator[Sides]:
    """Both sides in one snapshot.

    Raises:
        OpsError: A side is missing, or may not be read.
    """
    try:
        with psycopg.connect(
            dsn, connect_timeout=10, application_name="cdrstream compare-old", options=_OPTIONS
        ) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            yield Sides(connection, old_schema, new_schema)
    except psycopg.errors.UndefinedTable as error:
        raise OpsError(
            f"a side is missing: {_one_line(error)}",
            "--old-schema names the old resolver's schema, sink.schema ours: provision makes it",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise OpsError(
            f"a side may not be read: {_one_line(error)}",
            f"GRANT SELECT ON {old_schema}.cdrs to the sink's role; `cdrstream provision` does it",
        ) from error


def _one_line(error: psycopg.Error) -> str:
    return str(error).splitlines()[0]
