"""What is older than the retention leaves the sink, bit by bit: CDRs, reasons, gaps, history.

Owns the statements and their bounds: small batches, each a transaction of its own, one purger in a
database at a time (advisory lock). Refuses to know when to purge, and the servers' own tables:
`ops.purge`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from stream_app.errors import SinkUnavailable

_LOCK_KEY: Final = 0x63647270  # "cdrp"

# A call that began long ago and ended lately stays; locked rows wait for the next time.
_PURGE_CALLS: Final = """
WITH old AS (
    SELECT call_id FROM cdrs
    WHERE start_time < %(before)s::timestamp
      AND coalesce(end_time, connect_time, start_time) < %(before)s::timestamp
    ORDER BY start_time LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), why AS (
    DELETE FROM cdr_provenance USING old WHERE cdr_provenance.call_id = old.call_id
)
DELETE FROM cdrs USING old WHERE cdrs.call_id = old.call_id
"""
_PURGE_HIDDEN: Final = """
DELETE FROM cdr_provenance WHERE call_id IN (
    SELECT call_id FROM cdr_provenance
    WHERE hidden_reason IS NOT NULL AND resolved_at < %(before)s::timestamp AT TIME ZONE 'UTC'
    LIMIT %(rows)s FOR UPDATE SKIP LOCKED
)
"""
_PURGE_GAPS: Final = """
DELETE FROM cdr_gaps WHERE id IN (
    SELECT id FROM cdr_gaps
    WHERE coalesce(to_time, noticed_at) < %(before)s::timestamp AT TIME ZONE 'UTC'
    LIMIT %(rows)s
)
"""
# What a replay put in the place of a CDR goes with it; so does what was there before.
_PURGE_HISTORY: Final = """
DELETE FROM cdr_history WHERE id IN (
    SELECT id FROM cdr_history
    WHERE replaced_at < %(before)s::timestamp AT TIME ZONE 'UTC'
       OR coalesce(cdr->>'end_time', cdr->>'connect_time', cdr->>'start_time')::timestamp
           < %(before)s::timestamp
    LIMIT %(rows)s
)
"""


@dataclass(frozen=True, slots=True)
class Purged:
    """Rows that were deleted; `busy`: somebody else is at it, and nothing was done."""

    calls: int = 0
    hidden: int = 0
    gaps: int = 0
    busy: bool = False


def purge(
    dsn: str,
    days: float,
    *,
    schema: str = "public",
    rows: int = 1_000,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Purged:
    """Deletes what is older than `days`, at most `rows` a transaction, until nothing is left.

    Raises:
        SinkUnavailable: The database is away or refuses; what was deleted so far stays deleted.
    """
    try:
        with psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=5,
            application_name="cdrstream purge",
            options="-c timezone=UTC -c statement_timeout=60s -c lock_timeout=10s",
        ) as connection:
            path = sql.SQL("SET search_path = {}").format(sql.Identifier(schema))
            connection.execute(path)
            row = connection.execute(
                "SELECT pg_try_advisory_lock(%s), "
                "(now() AT TIME ZONE 'UTC' - make_interval(secs => %s))::text",
                (_LOCK_KEY, days * 86_400),
            ).fetchone()
            assert row is not None
            if not row[0]:
                return Purged(busy=True)
            counts = []
            for statement in (_PURGE_CALLS, _PURGE_HIDDEN, _PURGE_GAPS, _PURGE_HISTORY):
                total, deleted = 0, rows
                while deleted >= rows and not is_stopped():
                    asked = {"before": row[1], "rows": rows}
                    deleted = connection.execute(statement.encode(), asked).rowcount
                    total += deleted
                counts.append(total)
            calls, hidden, gaps, _ = counts
            return Purged(calls, hidden, gaps)
    except psycopg.Error as error:
        raise SinkUnavailable(f"purging failed: {' '.join(str(error).split())[:200]}") from error
