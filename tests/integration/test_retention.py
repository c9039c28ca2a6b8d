"""What is old goes, in small batches, by one purger at a time; what is not stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops.stack import Stack
from stream_app.errors import SinkUnavailable
from stream_app.retention import Purged, purge
from tests.streaming import Bed, database, stream_stack, until

__all__ = ["stream_stack"]

pytestmark = pytest.mark.timeout(600)

CALL = (
    "INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, end_time)"
    " SELECT %s || n, '', '', '', '', now() AT TIME ZONE 'UTC' - %s::interval,"
    " now() AT TIME ZONE 'UTC' - %s::interval FROM generate_series(1, %s) n"
)
WHY = (
    "INSERT INTO cdr_provenance (call_id, revision, hidden_reason, rule, missing, suspect, servers,"
    " offsets, legs, inversions, changed, notes, events, late_events, events_dropped, resolved_at)"
    " SELECT %s || n, 3, %s, '', '{}', false, '{}', '[]', '[]', '[]', '{}', '[]', '[]', 0, 0,"
    " now() - %s::interval FROM generate_series(1, %s) n"
)
GAP = (
    "INSERT INTO cdr_gaps (server, from_lsn, to_lsn, to_time, reason)"
    " VALUES ('a', '0/1', %s, now() - %s::interval, '')"
)


@pytest.fixture
def dsn(stream_stack: Stack) -> Iterator[str]:
    with database(stream_stack.sink) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        for prefix, start, end, count in (
            ("old", "40 days", "40 days", 25),
            ("long", "40 days", "1 day", 3),
            ("new", "2 days", "2 days", 7),
        ):
            connection.execute(CALL, (prefix, start, end, count))
            connection.execute(WHY, (prefix, None, end, count))
        connection.execute(WHY, ("hidden-old", "music on hold", "40 days", 12))
        connection.execute(WHY, ("hidden-new", "music on hold", "1 day", 4))
        connection.execute(GAP, ("0/2", "40 days"))
        connection.execute(GAP, ("0/3", "1 day"))
        yield dsn


def count(dsn: str, table: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert row is not None
        return row[0]


def test_what_is_old_goes_with_its_reasons(dsn: str) -> None:
    assert purge(dsn, 35, rows=10) == Purged(25, 12, 1)
    assert (count(dsn, "cdrs"), count(dsn, "cdr_provenance"), count(dsn, "cdr_gaps")) == (10, 14, 1)
    assert purge(dsn, 35, rows=10) == Purged()


def test_what_replays_have_replaced_goes_too(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO cdr_history (replay_id, call_id, revision, cdr, replaced_at)"
            " SELECT 1, call_id, 3, to_jsonb(cdrs), now() FROM cdrs"
        )
    purge(dsn, 35, rows=10)
    assert count(dsn, "cdr_history") == 10


def test_one_purges_at_a_time_and_can_be_stopped(dsn: str) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (0x63647270,))
        assert purge(dsn, 35) == Purged(busy=True)
    looks = iter([False, True, True, True, True])
    assert purge(dsn, 35, rows=10, is_stopped=lambda: next(looks)) == Purged(10)


def test_a_database_that_is_away_says_so() -> None:
    with pytest.raises(SinkUnavailable, match="purging failed"):
        purge("host=127.0.0.1 port=1", 35)


def test_the_worker_purges(dsn: str, tmp_path: Path) -> None:
    with Bed(dsn, tmp_path, retention_interval_seconds=0.2) as bed:
        worker = bed.worker()
        until(lambda: worker.logged("purged calls=25 hidden=12 gaps=1"), "purged")
        assert worker.stop() == 0
