"""What a range cuts: calls over its edges, records that are gone, events that come late."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from ops.errors import OpsError
from ops.replay import applying, comparing, registry
from ops.replay.diff import Kind
from ops.replay.driving import drive, settings_json
from ops.replay.partition import PartitionReplay
from ops.replay.reading import LedgerOutput, read_parts
from ops.replay.registry import Replay
from ops.replay.source import Late
from ops.stack import Stack
from tests.calls import iso
from tests.replay_kit import (
    beat_at,
    begin,
    connect,
    job_of,
    plan_of,
    put_at,
    replayed,
    verified,
    yesterday,
)
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)


def wait_for(bed: Bed, names: set[str]) -> None:
    until(lambda: names <= set(bed.cdr_ids()), f"CDRs of {sorted(names)[:5]} ...")


def kinds_of(bed: Bed, done: Replay) -> dict[str, list[str]]:
    with connect(bed) as connection:
        return {c["call_id"]: c["kinds"] for c in comparing.changes(connection, done.id)}


def apply(bed: Bed, done: Replay, **more: Any) -> applying.Applied:
    with connect(bed) as connection:
        applying.check(
            done,
            settings_json(bed.settings.resolution),
            accept_missing=more.pop("accept_missing", False),
            newest=None,
        )
        return applying.apply(connection, registry.get(connection, done.id))


def test_calls_over_the_edges_belong_to_the_range_they_began_in(bed: Bed) -> None:
    at = yesterday()
    calls = {
        "before@h": call_rows("before@h", at - 500, seconds=100),
        "into@h": call_rows("into@h", at - 50, seconds=100),
        "inside@h": call_rows("inside@h", at + 10, seconds=20),
        "out@h": call_rows("out@h", at + 90, seconds=500),
        "through@h": call_rows("through@h", at - 10, seconds=300),
        "after@h": call_rows("after@h", at + 110, seconds=10),
    }
    rows = sorted((row for call in calls.values() for row in call), key=lambda r: r["event_time"])
    worker = bed.worker()
    worker.wait_assigned()
    put_at(bed, rows)
    beat_at(bed, at + 700)
    bed.flush()
    wait_for(bed, set(calls))
    done = replayed(bed, at, at + 100)
    assert done.result["summary"]["unchanged"] == 2, "inside, out"
    assert kinds_of(bed, done) == {}
    edges = replayed(bed, at - 20, at + 100)
    assert edges.result["summary"]["unchanged"] == 3
    # A margin that is shorter than a call: its beginning is not read, and that is seen.
    short = replayed(bed, at, at + 100, margin=0.0)
    assert plan_of(bed, at, at + 100, 0.0).is_cut
    assert short.result["summary"]["unchanged"] == 2
    # into@h has ended in the range without having been seen to begin: it stays as it is.
    assert kinds_of(bed, short) == {}
    edge = replayed(bed, at - 20, at + 100, margin=5.0)
    assert kinds_of(bed, edge) == {}
    torn = replayed(bed, at - 11, at + 100, margin=-5.0)
    assert kinds_of(bed, torn) == {"through@h": [Kind.CUT.value]}
    assert torn.result["summary"]["applicable"] == 0
    assert worker.stop() == 0


def test_what_retention_has_eaten_is_said_and_must_be_accepted(
    bed: Bed, stream_stack: Stack
) -> None:
    at = yesterday()
    names = [f"c{n:03}@h" for n in range(100)]
    worker = bed.worker()
    worker.wait_assigned()
    for n, name in enumerate(names):
        put_at(bed, call_rows(name, at + n, seconds=5))
    beat_at(bed, at + 200)
    bed.flush()
    wait_for(bed, set(names))
    ends = bed.ends()
    topic = bed.settings.events_topic
    gone = [TopicPartition(topic, n, end // 2) for n, end in ends.items()]
    admin = stream_stack.broker.admin()
    for future in admin.delete_records(gone).values():
        future.result(20)
    with connect(bed) as connection:
        connection.execute("UPDATE cdrs SET termination = 'U' WHERE call_id = %s", (names[95],))
    before = bed.query("SELECT * FROM cdrs WHERE call_id <> %s ORDER BY call_id", names[95])
    done = replayed(bed, at, at + 100)
    assert done.result["missing_until"] is not None
    kinds = kinds_of(bed, done)
    assert kinds.pop(names[95]) == [Kind.TERMINATION.value]
    assert {kind for told in kinds.values() for kind in told} == {Kind.CUT.value}
    assert 30 <= len(kinds) <= 70
    with pytest.raises(OpsError, match="retention"):
        apply(bed, done)
    assert apply(bed, done, accept_missing=True) == applying.Applied(1, 0)
    assert bed.query("SELECT termination FROM cdrs WHERE call_id = %s", names[95]) == [("C",)]
    assert bed.query("SELECT * FROM cdrs WHERE call_id <> %s ORDER BY call_id", names[95]) == before
    assert worker.stop() == 0


def test_an_event_that_comes_between_replay_and_apply_is_not_lost(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    names = [f"c{n}@h" for n in range(6)]
    for name in names:
        bed.put_rows(call_rows(name, 0, seconds=10))
    bed.beat(60)
    bed.flush()
    wait_for(bed, set(names))
    with connect(bed) as connection:
        connection.execute("UPDATE cdrs SET callee_aor = 'wrong'")
    done = replayed(bed, 0, 10)
    assert done.result["summary"]["applicable"] == 6
    late = call_rows(names[0], 0, seconds=30)[2] | {"id": 4_711, "event_seq": 9}
    late["to_tag"], late["event_time"] = "other", iso(40)
    bed.put_rows([late])
    bed.beat(120)
    bed.flush()
    until(
        lambda: (
            bed.query("SELECT revision FROM cdr_provenance WHERE call_id = %s", names[0]) == [(4,)]
        ),
        "the late event makes a revision",
    )
    assert apply(bed, done) == applying.Applied(5, 1)
    rows = bed.query("SELECT call_id, callee_aor FROM cdrs ORDER BY call_id")
    assert [aor for _, aor in rows] == ["<sip:b@example.com>"] * 6
    assert bed.query("SELECT revision FROM cdr_provenance ORDER BY call_id") == [(4,), *[(3,)] * 5]
    # Live goes on from what was applied: one more event, one more revision.
    more = call_rows(names[1], 0, seconds=30)[2] | {"id": 4_712, "event_seq": 9}
    bed.put_rows([more])
    bed.beat(180)
    bed.flush()
    until(
        lambda: (
            bed.query("SELECT revision, replay_id FROM cdr_provenance WHERE call_id = %s", names[1])
            == [(4, None)]
        ),
        "a revision of the service goes before the replay's",
    )
    with connect(bed) as connection:
        back = applying.undo(connection, registry.get(connection, done.id))
    assert back == applying.Applied(4, 1)
    assert worker.stop() == 0


def test_an_event_after_the_late_horizon_is_in_the_replay_too(bed: Bed) -> None:
    """The live run takes the call up from the database; the replay looks at it again."""
    worker = bed.worker()
    worker.wait_assigned()
    names = [f"c{n}@h" for n in range(8)]
    for name in names:
        bed.put_rows(call_rows(name, 0, seconds=10))
    bed.beat(60)
    bed.flush()
    wait_for(bed, set(names))
    bed.beat(20_000)
    bed.beat(20_100)
    bed.flush()
    until(lambda: sum(s["open_calls"] for s in bed.statuses().values()) == 0, "all is forgotten")
    late = call_rows(names[0], 0, seconds=5)[2] | {"id": 4_711, "event_seq": 9}
    bed.put_rows([late])
    bed.beat(20_200)
    bed.flush()
    until(
        lambda: (
            bed.query("SELECT revision FROM cdr_provenance WHERE call_id = %s", names[0]) == [(4,)]
        ),
        "the late event makes a revision",
    )
    assert bed.query(
        "SELECT end_time - connect_time = '5 s' FROM cdrs WHERE call_id = %s", names[0]
    )
    done = replayed(bed, 0, 10)
    assert done.result["returning"] == 1
    assert done.result["summary"]["changed"] == 0
    assert verified(bed, 0, 10).compared.equal
    assert worker.stop() == 0


def test_what_comes_days_later_counts_and_the_days_do_not(bed: Bed) -> None:
    rules = dataclasses.replace(bed.settings.resolution, max_call_seconds=600.0)
    bed.settings = dataclasses.replace(bed.settings, resolution=rules)
    worker = bed.worker()
    worker.wait_assigned()
    early = {f"c{n}@h": call_rows(f"c{n}@h", n, seconds=10) for n in range(20)}
    early["endless@h"] = call_rows("endless@h", 5, seconds=50_000)
    for name, rows in early.items():
        bed.put_rows(rows[:1] if name == "c3@h" else rows[:2] if name == "endless@h" else rows)
    bed.flush()
    bed.beat(60)
    names = set(early)
    for at in range(5_000, 60_000, 500):
        names.add(f"later-{at}@h")
        bed.put_rows(call_rows(f"later-{at}@h", at, seconds=10))
        bed.beat(at + 400)
        if at == 30_000:
            bed.put_rows(early["c3@h"][1:])
        if at == 55_000:
            bed.put_rows(early["endless@h"][2:])
        bed.flush()
    step = itertools.count(60_000, 500)

    def all_told() -> bool:
        bed.beat(next(step))
        bed.flush()
        ended = bed.query("SELECT count(*) FROM cdrs WHERE termination = 'C'")[0][0]
        return bool(ended == len(names))

    until(all_told, "all calls have ended")
    plan = plan_of(bed, 0, 100)
    source = job_of(bed, plan).source(plan.parts)
    left = []

    class Counting:
        def chunks(self, positions: Any) -> Any:
            return source.chunks(positions)

        def only_late(self, partition: int, late: Late) -> None:
            left.append(partition)
            source.only_late(partition, late)

    job = job_of(bed, plan)
    parts = {part.partition: PartitionReplay(job.rules(), part.partition) for part in plan.parts}
    ends = {part.partition: part.end for part in plan.parts}
    output = LedgerOutput(plan.span)
    # One record a chunk, so that the range is behind before the last record is fetched.
    source._batch = 1  # type: ignore[attr-defined]
    read_parts(Counting(), parts, ends, 4, output, tail=job.tail())
    assert sorted(left) == [0, 1, 2, 3]
    told = sum(part.processor.counters.opened for part in parts.values())
    assert told < len(names) - 50, "days were passed over"
    assert verified(bed, 0, 100).compared.equal
    done = replayed(bed, 0, 100)
    assert done.result["summary"]["changed"] == 0
    assert done.result["summary"]["unchanged"] == 21
    assert worker.stop() == 0


def test_a_replay_during_traffic_disturbs_nothing(bed: Bed) -> None:
    first = bed.worker("w1")
    first.wait_assigned()
    names: list[str] = []
    started = time.monotonic()
    done: list[Replay] = []
    for step in range(40):
        for n in range(10):
            names.append(f"s{step:02}-{n}@h")
            bed.put_rows(call_rows(names[-1], step, seconds=1))
        bed.beat(step)
        bed.flush()
        if step == 10:
            second = bed.worker("w2")
        if step == 20:
            first.kill()
        if step in (15, 30):
            done.append(replayed(bed, 0, step))
    print(f"{time.monotonic() - started:.1f} s")
    bed.beat(100)
    bed.flush()
    wait_for(bed, set(names))
    assert sorted(bed.cdr_ids()) == sorted(names)
    for replay in done:
        # What the service has not told yet is no difference to be feared: nothing is torn.
        kinds = {kind for told in kinds_of(bed, replay).values() for kind in told}
        assert kinds <= {Kind.ADDED.value, Kind.MONEY.value, Kind.NEWER.value}
    assert verified(bed, 0, 50).compared.equal
    assert second.stop() == 0


def test_what_if_only_tells(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    rows = call_rows("rings@h", 0)[:1]
    bed.put_rows(rows)
    bed.put_rows(call_rows("talks@h", 0, seconds=10))
    bed.beat(200)
    bed.flush()
    wait_for(bed, {"rings@h", "talks@h"})
    assert replayed(bed, 0, 10).result["summary"]["changed"] == 0
    done = drive(begin(bed, plan_of(bed, 0, 10), max_ringing_seconds=500.0))
    assert kinds_of(bed, done) == {"rings@h": [Kind.NOT_REBUILT.value]}, "it would still be ringing"
    with pytest.raises(OpsError, match=r"max_ringing_seconds = 500\.0"):
        apply(bed, done)
    assert worker.stop() == 0
