"""Replays beside a live service: the same digest, differences found, applied and taken back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ops.errors import OpsError
from ops.replay import applying, comparing, registry
from ops.replay.driving import drive
from tests.replay_kit import begin, connect, plan_of, replayed, verified
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)


def live_calls(bed: Bed, count: int, at: float = 0) -> list[str]:
    """Calls that a worker has written, ten a second."""
    names = [f"call-{at:g}-{n:04}@host" for n in range(count)]
    for n, name in enumerate(names):
        bed.put_rows(call_rows(name, at + n / 10))
    bed.beat(at + count / 10 + 60)
    bed.flush()
    until(lambda: set(names) <= set(bed.cdr_ids()), "all CDRs")
    return names


def test_a_range_and_its_replay_have_one_digest(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    live_calls(bed, 300)
    done = replayed(bed, 0, 30)
    summary, digests = done.result["summary"], done.result["digests"]
    assert (summary["unchanged"], summary["changed"]) == (300, 0)
    assert digests["service"] == digests["replay"]
    assert done.result["missing_until"] is None
    two = replayed(bed, 0, 30, workers=2)
    assert two.result["digests"] == digests, "whoever reads which partition"
    alone = verified(bed, 0, 30)
    assert alone.compared.equal
    assert str(alone.replay) == digests["replay"]
    assert alone.inputs == digests["inputs"]
    assert alone.settings == digests["settings"]
    part = verified(bed, 10, 20)
    assert part.compared.equal
    assert part.replay.records == 100
    assert worker.stop() == 0


def test_a_difference_is_found_applied_and_taken_back(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    names = live_calls(bed, 50)
    before = bed.query("SELECT * FROM cdrs ORDER BY call_id")
    with connect(bed) as connection:
        connection.execute(
            "UPDATE cdrs SET end_time = end_time + interval '89.3 s' WHERE call_id = %s",
            (names[3],),
        )
        connection.execute("UPDATE cdrs SET termination = 'U' WHERE call_id = %s", (names[4],))
        connection.execute("DELETE FROM cdrs WHERE call_id = %s", (names[5],))
    broken = bed.query("SELECT * FROM cdrs ORDER BY call_id")
    assert not verified(bed, 0, 5).compared.equal
    done = replayed(bed, 0, 5)
    summary = done.result["summary"]
    assert summary["kinds"] == {
        "added": 1,
        "times moved": 1,
        "termination changed": 1,
        "billed seconds changed": 2,
    }
    assert summary["minutes"]["difference"] == pytest.approx((10 - 90) / 60, abs=1e-3)
    with connect(bed) as connection:
        changes = list(comparing.changes(connection, done.id))
        assert [change["call_id"] for change in changes] == [names[3], names[5], names[4]]
        assert changes[0]["billed_seconds"] == [100, 10]
        assert bed.query("SELECT * FROM cdrs ORDER BY call_id") == broken, "a dry run"
        for _ in range(2):
            done = registry.get(connection, done.id)
            assert applying.apply(connection, done) == applying.Applied(3, 0)
            now = bed.query("SELECT * FROM cdrs ORDER BY call_id")
            assert [row[1:] for row in now] == [row[1:] for row in before]
            assert [row[0] for row in now if row[1] != names[5]] == [row[0] for row in broken]
            why = bed.query("SELECT replay_id, revision FROM cdr_provenance WHERE changed <> '{}'")
            assert why == [(done.id, 3)] * 3
            assert verified(bed, 0, 5).compared.equal
            done = registry.get(connection, done.id)
            assert applying.undo(connection, done) == applying.Applied(3, 0)
            assert bed.query("SELECT * FROM cdrs ORDER BY call_id") == broken
    assert worker.stop() == 0


def test_what_the_rules_hide_loses_its_record_and_gets_it_back(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    hold = call_rows("hold@host", 0)
    for row in hold:
        row["to_url"] = "<sip:~~mh~1@example.com>"
    bed.put_rows(hold)
    names = live_calls(bed, 3)
    until(lambda: bed.query("SELECT 1 FROM cdr_provenance WHERE hidden_reason IS NOT NULL"), "told")
    with connect(bed) as connection:
        connection.execute(
            "INSERT INTO cdrs (id, call_id, from_tag, to_tag, caller_aor, callee_aor, start_time,"
            " termination) SELECT 4711, 'hold@host', from_tag, to_tag, caller_aor, callee_aor,"
            " start_time, 'U' FROM cdrs WHERE call_id = %s",
            (names[0],),
        )
        broken = bed.query("SELECT * FROM cdrs ORDER BY call_id")
        done = replayed(bed, 0, 30)
        [change] = comparing.changes(connection, done.id)
        assert (change["call_id"], change["kinds"]) == ("hold@host", ["removed"])
        assert applying.apply(connection, done) == applying.Applied(1, 0)
        assert bed.cdr_ids() == names
        assert applying.undo(connection, registry.get(connection, done.id)).replaced == 1
        assert bed.query("SELECT * FROM cdrs ORDER BY call_id") == broken
    assert worker.stop() == 0


def test_two_processes_never_drive_one_replay(bed: Bed) -> None:
    bed.put_rows(call_rows("c@h", 0))
    bed.beat(60)
    bed.flush()
    job = begin(bed, plan_of(bed, 0, 10))
    assert job.replay_id is not None
    with (
        connect(bed) as other,
        registry.held(other, job.replay_id),
        pytest.raises(OpsError, match="at work in another process"),
    ):
        drive(job)
    with connect(bed) as orphan, ThreadPoolExecutor(1) as pool:
        registry.write_for(orphan, job.replay_id)
        driven = pool.submit(drive, job)
        until(
            lambda: bed.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"),
            "it waits for a process that was left behind",
        )
        orphan.close()
        assert driven.result(300).result["summary"]["kinds"]["added"] == 1


def test_calls_of_different_processes_ask_each_other(bed: Bed) -> None:
    """No worker has ever run: nobody has answered before. Some named calls come hours later."""
    for n in range(200):
        rows = call_rows(f"leg-{n:03}@h", n, seconds=5)
        named = f"named-{n:03}@h" if n % 2 else f"nobody-{n:03}@h"
        rows[0]["reference"] = f"{named};rel=chain"
        bed.put_rows(rows)
    bed.flush()  # the client sends again what a new topic refuses, behind what came later
    bed.beat(400)
    bed.beat(3_000)
    bed.beat(9_000)
    bed.flush()
    for n in range(1, 200, 2):
        bed.put_rows(call_rows(f"named-{n:03}@h", 9_000 + n if n % 4 == 1 else n, seconds=5))
    bed.flush()
    bed.beat(10_000)
    bed.flush()
    one, two, three = (replayed(bed, 0, 9_900, workers=n).result for n in (1, 2, 3))
    assert one["summary"]["kinds"]["added"] == 100 + 100, "legs of nobody, and the named ones"
    assert one["digests"] == two["digests"] == three["digests"]
    for workers in (1, 4):
        alone = verified(bed, 0, 9_900, workers=workers)
        assert str(alone.replay) == one["digests"]["replay"]
        assert (alone.compared.only_here, alone.compared.only_there) == (200, 0)


def test_names_that_need_escapes_are_compared_as_they_are(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    names = ["tab\tname@h", "back\\slash@h", "new\nline@h", "b\\\\two@h", "ünïcode\u202e@h", "\\N"]
    for name in names:
        rows = call_rows(name, 5)
        rows[0]["from_url"] = '"\\ \t \x0b" <sip:a@example.com>;tag=f'
        bed.put_rows(rows)
    bed.beat(100)
    bed.flush()
    until(lambda: len(bed.cdr_ids()) == len(names), "all CDRs")
    alone = verified(bed, 0, 60)
    assert alone.compared.same == len(names)
    assert alone.compared.equal
    done = replayed(bed, 0, 60).result
    assert done["summary"]["unchanged"] == len(names)
    assert done["digests"]["service"] == done["digests"]["replay"] == str(alone.service)
    assert worker.stop() == 0
