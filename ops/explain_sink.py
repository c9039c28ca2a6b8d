"""A call and its reasons as the sink's database has them.

Owns the question, and what is said of a call that is not there. Refuses to word the reasons: that
is `ops.explain`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from callstate.cdr import TIME_COLUMNS
from ops.complete import complete_through
from ops.dsn import with_options
from ops.errors import OpsError
from ops.explain import Explained
from ops.visible import visible

STATEMENT_TIMEOUT_MS: Final = 3_000
_NEAR_MAX: Final = 5


def from_sink(dsn: str, call_id: str, schema: str = "public") -> Explained:
    """The call as the sink's database has it.

    Raises:
        OpsError: The database has no provenance of that call.
    """
    dsn = with_options(
        dsn,
        f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c default_transaction_read_only=on "
        f"-c search_path={schema}",
    )
    with psycopg.connect(dsn, connect_timeout=5, row_factory=dict_row) as sink:
        row = sink.execute("SELECT * FROM cdr_provenance WHERE call_id = %s", (call_id,)).fetchone()
        if row is None:
            raise OpsError(*_not_found(sink, call_id))
        cdr = sink.execute("SELECT * FROM cdrs WHERE call_id = %s", (call_id,)).fetchone()
    hidden = str(row.pop("hidden_reason") or "")
    return Explained(
        {name: _json_able(value) for name, value in row.items()},
        None if cdr is None else _cdr(cdr),
        hidden,
    )


def _cdr(row: dict[str, Any]) -> dict[str, Any]:
    """The CDR's columns, times as everywhere else: ISO 8601 in UTC."""
    for name in TIME_COLUMNS:
        if row[name] is not None:
            row[name] = _iso(row[name])
    return row


def _json_able(value: Any) -> Any:
    return _iso(value) if isinstance(value, datetime) else value


def _iso(moment: datetime) -> str:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _not_found(sink: psycopg.Connection[dict[str, Any]], call_id: str) -> tuple[str, str]:
    """What to say of an unknown call: how far the sink has got, and ids that begin alike."""
    through = complete_through(sink)
    seen = (
        f"the sink holds all calls that ended before {_iso(through)}"
        if through
        else "not all partitions have been read yet"
    )
    beginning = call_id[: max(4, len(call_id) * 2 // 3)]
    near = sink.execute(
        "SELECT call_id FROM cdr_provenance WHERE starts_with(call_id, %s) LIMIT %s",
        (beginning, _NEAR_MAX),
    ).fetchall()
    ids = ", ".join(visible(str(row["call_id"]))[:80] for row in near)
    return (
        f"no call {visible(call_id)[:200]!r} is known: {seen}",
        f"Call-IDs that begin alike: {ids}" if ids else "a call still open, purged, or never seen",
    )
