"""The command `explain`: finds a call and its reasons, in the sink or in files, and prints them.

Owns where they are looked for and what is said when there are none. Refuses to word the reasons:
that is `ops.explain`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from rich.console import Console

from callstate.cdr import TIME_COLUMNS
from ops import explain
from ops.dsn import with_options
from ops.errors import OpsError
from ops.explain import Explained
from ops.invocation import Invocation
from ops.visible import visible

STATEMENT_TIMEOUT_MS = 3_000
_NEAR_MAX = 5


def run(
    invocation: Invocation,
    call_id: str,
    *,
    from_rows: Sequence[str] | None,
    reference: str | None,
    as_json: bool,
) -> None:
    """Prints one call.

    Raises:
        OpsError: The call is not known; the message says where was looked and what is near.
    """
    if from_rows:
        from ops.offline import explain_rows  # noqa: PLC0415  the other way needs no loader

        found = explain_rows(invocation, call_id, from_rows, reference=reference)
    else:
        config = invocation.config
        found = from_sink(config.sink_dsn(), call_id, config.sink.schema_name)
    show(found, as_json=as_json)


def show(found: Explained, *, as_json: bool) -> None:
    """Prints to standard output, as text of 80 columns or as one JSON object."""
    if as_json:
        # ASCII only: what a stranger wrote into a header cannot reach the terminal.
        sys.stdout.write(json.dumps(explain.as_object(*found), indent=2) + "\n")
        return
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False, emoji=False)
    for line in explain.render(*found):
        console.print(line)


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
    progress = sink.execute("SELECT min(watermark) AS through FROM sink_progress").fetchone()
    through = progress["through"] if progress else None
    seen = (
        f"the sink holds all calls that ended before {_iso(through)}"
        if through
        else "no worker has written its progress yet"
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
