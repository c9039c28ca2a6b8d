"""The command `traffic`: rows in their order, made as time goes on."""

from __future__ import annotations

from ops.demo.traffic import BATCH_SECONDS, Calls
from ops.simulation.script import US

NOW = 1_700_000_000.0


def test_rows_come_when_they_are_due_and_never_twice():
    calls = Calls(["a", "b"], 5.0, "usual")
    assert list(calls.due(NOW)) == []
    seen, last = [], 0
    for step in range(1, 150):
        for row in calls.due(NOW + step * 0.2):
            assert last <= row.message_us <= (NOW + step * 0.2) * US
            last = row.message_us
            seen.append((row.row["call_id"], row.server, row.row["event_seq"]))
    assert len({call for call, *_ in seen}) > 4 * 25, "five calls a second"
    assert len(set(seen)) == len(seen)


def test_rows_wait_no_longer_than_their_calls_last():
    calls = Calls(["a"], 20.0, "plain")
    for step in range(0, 100, 5):
        for _ in calls.due(NOW + step):
            pass
    assert len(calls._rows) < 20 * 30 * BATCH_SECONDS


def test_a_rate_below_one_call_a_batch_is_kept():
    calls = Calls(["a"], 0.02, "plain")
    begun = {
        row.row["call_id"]
        for step in range(1_000)
        for row in calls.due(NOW + step)
        if row.row["event_type"] == "R"
    }
    assert 15 <= len(begun) <= 22
