"""What pages ask a real broker and a real database: a call's records, and CDRs that fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from confluent_kafka import Producer
from psycopg.rows import dict_row

from ops.dashboard.calls import Search, _find
from ops.dashboard.scan import scan
from ops.monitor.watched import Broker
from ops.stack import Stack
from stream_app.migrations import migrate

RECORDS = 40
APART_SECONDS = 100
CALL = "talking@example.com"


@pytest.mark.timeout(600)
def test_two_stretches_are_read_and_what_lies_elsewhere_is_not_claimed(
    stack: Stack, topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.dashboard.scan.RECORDS_MAX", 5)
    monkeypatch.setattr("ops.dashboard.scan.AROUND_RECORDS", 2)
    monkeypatch.setattr("ops.dashboard.scan.SLICE_RECORDS", 2)
    monkeypatch.setattr("ops.dashboard.scan.LOOK_SECONDS", 60.0)  # how far, and not how fast
    name, begun = topic(partitions=1), time.time() - RECORDS * APART_SECONDS
    producer = Producer({"bootstrap.servers": stack.broker.bootstrap_servers})
    for number in range(RECORDS):
        producer.produce(
            name,
            str(number),
            CALL if number in (10, 11, 25, 36, 39) else "another",
            timestamp=round((begun + number * APART_SECONDS) * 1_000),
        )
    assert producer.flush(60) == 0
    broker = Broker({"bootstrap.servers": stack.broker.bootstrap_servers}, "sipx.", 1)
    told = scan(broker, name, CALL, [begun + 10 * APART_SECONDS])
    assert [record.offset for record in told.found] == [10, 11, 36, 39]
    assert (told.looked, told.newest_unread, told.around_unread) == (7, 0, 0)
    assert told.around
    assert not told.whole
    assert [record.offset for record in scan(broker, name, CALL).found] == [36, 39]
    monkeypatch.setattr("ops.dashboard.scan.RECORDS_MAX", RECORDS)
    told = scan(broker, name, CALL, [begun])
    assert (len(told.found), told.looked, told.whole) == (5, RECORDS, True)


CDRS = """
INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, termination)
VALUES ('busy@example.com', 'f', 't', '<sip:a@x>', '<sip:b@x>', '2026-01-31 12:00', 'F'),
    ('by-hand@example.com', 'f', 't', '<sip:a@x>', '<sip:b@x>', '2026-01-31 13:00', 'C');
INSERT INTO cdr_provenance (call_id, revision, hidden_reason, rule, missing, suspect, servers,
    offsets, legs, inversions, changed, notes, events, late_events, events_dropped)
SELECT name, 1, reason, 'x', '{}', false, '{}', '{}', '[]', '[]', '{}', '[]', '[]', 0, 0
FROM (VALUES ('busy@example.com', NULL), ('hold@example.com', 'music')) AS told (name, reason);
"""


@pytest.mark.parametrize(
    ("search", "calls", "hidden", "unfit"),
    [
        (Search("busy@example.com"), ["busy@example.com"], "", False),
        (Search("busy@example.com", outcome="F"), ["busy@example.com"], "", False),
        (Search("busy@example.com", outcome="C"), [], "", True),
        (Search("busy@example.com", suspect=True), [], "", True),
        (Search("busy@example.com", since="2026-02-01"), [], "", True),
        (Search("by-hand@example.com", outcome="C"), ["by-hand@example.com"], "", False),
        (Search("hold@example.com"), [], "music", False),
        (Search("hold@example.com", outcome="C"), [], "music", False),
        (Search("nobody@example.com", outcome="C"), [], "", False),
    ],
    ids=lambda value: str(value.outcome or "any") if isinstance(value, Search) else None,
)
def test_a_call_found_by_its_name_heeds_what_else_was_asked(
    sink: psycopg.Connection[dict[str, object]],
    search: Search,
    calls: list[str],
    hidden: str,
    unfit: bool,
) -> None:
    found = _find(sink, search)
    assert [row["call_id"] for row in found.rows] == calls
    assert (found.hidden, found.unfit) == (hidden, unfit)


@pytest.fixture(scope="module")
def sink(stack: Stack) -> Iterator[psycopg.Connection[dict[str, object]]]:
    stack["a"].create_database("dashboard_asks")
    dsn = stack["a"].dsn_for("dashboard_asks")
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(CDRS)
        yield connection
    stack["a"].drop_database("dashboard_asks")
