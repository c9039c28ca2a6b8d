"""Searching calls in the sink: the only questions that a page view puts to the database.

Owns the SQL, its limits (3 s, four at once, fifty rows a page, 100,000 looked at) and paging by
position, so that page 1,000 costs what page 1 does. Refuses to render.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import psycopg
from psycopg.rows import dict_row, tuple_row

from ops.errors import ConfigError
from ops.moments import moment
from ops.monitor.sources import LIMIT_SECONDS, sink_dsn
from ops.monitor.watched import Watched

PAGE_ROWS: Final = 50
LOOK_ROWS: Final = 100_000
AT_ONCE: Final = 4
ACTIVE_MAX: Final = 100
OUTCOMES: Final = ("C", "T", "A", "F", "U")
_QUERY_CHARACTERS: Final = 512
T = TypeVar("T")

_COLUMNS: Final = """
SELECT c.id, c.call_id, c.caller_aor, c.callee_aor, c.start_time, c.connect_time, c.end_time,
    c.termination, c.failure_status, c.failure_reason,
    p.revision, p.suspect, p.missing, p.late_events, p.servers
"""
_ORDER: Final = "ORDER BY c.start_time DESC, c.id DESC"
_EXACT: Final = f"""
{_COLUMNS} FROM cdrs AS c LEFT JOIN cdr_provenance AS p USING (call_id)
WHERE c.call_id = %(exact)s AND {{where}} {_ORDER} LIMIT 1
"""
_LIST: Final = f"""
{_COLUMNS} FROM cdrs AS c LEFT JOIN cdr_provenance AS p USING (call_id)
WHERE {{where}} AND {{fits}} {_ORDER} LIMIT %(limit)s
"""
# What no index finds is looked for among so many, newest first: a rare name in a hundred million
# records takes no longer than in a small table, and the next page looks further back.
_NEWEST: Final = f"""
{_COLUMNS} FROM (SELECT c.* FROM cdrs AS c WHERE {{where}} {_ORDER} LIMIT %(look)s) AS c
    LEFT JOIN cdr_provenance AS p USING (call_id)
WHERE {{fits}} {_ORDER} LIMIT %(limit)s
"""  # noqa: S608  our own words
_LOOKED: Final = f"""
SELECT c.start_time, c.id FROM cdrs AS c WHERE {{where}} {_ORDER} OFFSET %(look)s - 1 LIMIT 1
"""  # noqa: S608  our own words
_BEGUN: Final = """
SELECT extract(epoch FROM start_time)::float8, extract(epoch FROM connect_time)::float8
FROM active_calls WHERE call_id = %s
"""
_ACTIVE: Final = """
SELECT call_id, caller_aor, callee_aor, recipient, start_time, connect_time, partition
FROM active_calls WHERE %(text)s::text IS NULL
    OR caller_aor ILIKE %(text)s OR callee_aor ILIKE %(text)s OR call_id = %(exact)s
ORDER BY connect_time, call_id LIMIT %(limit)s
"""
_KNOWN: Final = """
SELECT EXISTS (SELECT FROM cdrs AS c WHERE c.call_id = %(exact)s) AS recorded,
    (SELECT coalesce(p.hidden_reason, 'it has no CDR')
     FROM cdr_provenance AS p WHERE p.call_id = %(exact)s) AS hidden
"""


class Busy(Exception):
    """All places for questions are taken."""


@dataclass(frozen=True, slots=True)
class Search:
    """What somebody looks for; empty is anything."""

    text: str = ""
    outcome: str = ""
    since: str = ""
    until: str = ""
    suspect: bool = False
    before: str = ""

    @property
    def asked(self) -> bool:
        """Whether anything was filled in."""
        return bool(self.text or self.outcome or self.since or self.until or self.suspect)


@dataclass(frozen=True, slots=True)
class Found:
    """A page of CDRs; `before` asks for the next one.

    Attributes:
        rows: Newest first.
        active: Calls in progress.
        before: Where the next page begins; empty where there is none.
        looked_back: How far was looked, where that is not all there is.
        hidden: Why a call that is known has no CDR.
        unfit: The CDR of that very Call-ID is not one of those that were asked for.
    """

    rows: tuple[dict[str, Any], ...] = ()
    active: tuple[dict[str, Any], ...] = ()
    before: str = ""
    looked_back: datetime | None = None
    hidden: str = ""
    unfit: bool = False


def search_of(query: Any) -> Search:
    """A search from what a browser sends.

    Raises:
        ConfigError: A time is none.
    """
    text = str(query.get("q", "")).strip()[:_QUERY_CHARACTERS].replace("\x00", "")
    outcome = str(query.get("outcome", ""))
    since, until = str(query.get("from", "")), str(query.get("to", ""))
    for name, value in (("from", since), ("to", until)):
        if value:
            moment(value, name)
    before = str(query.get("before", ""))
    return Search(
        text=text,
        outcome=outcome if outcome in OUTCOMES else "",
        since=since,
        until=until,
        suspect=query.get("suspect") == "1",
        before=before if re.fullmatch(r"[\dT:.\-]{10,32},\d{1,19}", before) else "",
    )


class Calls:
    """Questions about calls, a few at a time, each in a thread."""

    def __init__(self, watched: Watched) -> None:
        self._dsn = sink_dsn(watched)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def find(self, search: Search) -> Found:
        """A page of CDRs, newest first, and those in progress.

        Raises:
            Busy: Four others are asking.
            psycopg.Error: The database does not answer in time.
        """
        return await self.ask(lambda connection: _find(connection, search))

    async def ask(self, read: Callable[[psycopg.Connection[dict[str, Any]]], T]) -> T:
        """What `read` makes of a connection.

        Raises:
            Busy: Four others are asking.
            psycopg.Error: The database does not answer in time.
        """
        if self._room.locked():
            raise Busy
        async with self._room:
            return await asyncio.to_thread(self._ask, read)

    def _ask(self, read: Callable[[psycopg.Connection[dict[str, Any]]], T]) -> T:
        with psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=LIMIT_SECONDS,
            application_name="cdrstream dashboard",
            row_factory=dict_row,
        ) as connection:
            return read(connection)


def _find(connection: psycopg.Connection[dict[str, Any]], search: Search) -> Found:
    rows, before, looked_back = _listed(connection, search)
    active: list[dict[str, Any]] = []
    if not search.before and not search.outcome and not search.since and not search.until:
        active = connection.execute(
            _ACTIVE,
            {
                "text": _like(search.text) if search.text else None,
                "exact": search.text,
                "limit": ACTIVE_MAX,
            },
        ).fetchall()
    hidden, unfit = "", False
    if search.text and not rows and not active:
        known = connection.execute(_KNOWN, {"exact": search.text}).fetchone()
        assert known is not None
        unfit = known["recorded"]
        hidden = "" if unfit else str(known["hidden"] or "")
    return Found(tuple(rows), tuple(active), before, looked_back, hidden, unfit)


def _listed(
    connection: psycopg.Connection[dict[str, Any]], search: Search
) -> tuple[list[dict[str, Any]], str, datetime | None]:
    """A page, where the next one begins, and how far was looked if there may be more behind it."""
    where, values = _places(search)
    fits, more = _conditions(search)
    values |= {**more, "limit": PAGE_ROWS + 1, "look": LOOK_ROWS, "exact": search.text}
    if search.text:
        exact = connection.execute(_EXACT.format(where=where), values).fetchall()
        if exact:
            return [row for row in exact if _fits(row, search)], "", None
    looks = bool(search.text or search.outcome) and not search.suspect
    statement = _NEWEST if looks else _LIST
    rows = connection.execute(statement.format(where=where, fits=fits), values).fetchall()
    if len(rows) > PAGE_ROWS:
        rows = rows[:PAGE_ROWS]
        return rows, _place(rows[-1]), None
    last = connection.execute(_LOOKED.format(where=where), values).fetchone() if looks else None
    if last is None or last["start_time"] is None:
        return rows, "", None
    return rows, _place(last), last["start_time"]


def _fits(row: dict[str, Any], search: Search) -> bool:
    """Whether a record that was found by its name is one of those that are asked for."""
    if search.suspect and not row["suspect"]:
        return False
    return not search.outcome or row["termination"] == search.outcome


def _place(row: dict[str, Any]) -> str:
    """A row's place in the list, for the page behind it."""
    return "" if row["start_time"] is None else f"{row['start_time'].isoformat()},{row['id']}"


def begun(connection: psycopg.Connection[dict[str, Any]], call_id: str) -> tuple[float, ...]:
    """When a call in progress began and was answered, in seconds since 1970; empty if it is none.

    Raises:
        psycopg.Error: The database does not answer in time.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_BEGUN, (call_id,)).fetchone()
    return () if row is None else tuple(at for at in row if at is not None)


def _places(search: Search) -> tuple[str, dict[str, Any]]:
    """Which part of the table, by what its index knows. SQL of our own words only."""
    where, values = ["true"], dict[str, Any]()
    for name, text, sign in (("since", search.since, ">="), ("until", search.until, "<")):
        if text:
            where.append(f"c.start_time {sign} %({name})s")
            values[name] = moment(text, name).replace(tzinfo=None)
    if search.before:
        at, _, row_id = search.before.partition(",")
        try:
            values |= {"before": datetime.fromisoformat(at), "before_id": int(row_id)}
        except ValueError:
            raise ConfigError(
                "before: not a place in this list", "begin with the first page"
            ) from None
        where.append("(c.start_time, c.id) < (%(before)s, %(before_id)s)")
    return " AND ".join(where), values


def _conditions(search: Search) -> tuple[str, dict[str, Any]]:
    """What a row has to be; what somebody typed is a value."""
    fits, values = ["true"], dict[str, Any]()
    if search.text:
        fits.append("(c.caller_aor ILIKE %(text)s OR c.callee_aor ILIKE %(text)s)")
        values["text"] = _like(search.text)
    if search.outcome:
        fits.append("c.termination = %(outcome)s")
        values["outcome"] = search.outcome
    if search.suspect:
        fits.append("p.suspect")
    return " AND ".join(fits), values


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
