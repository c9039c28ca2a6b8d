"""What comes when its call has left the worker's state: days late, and still right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate.config import ResolutionConfig
from ops.stack import Stack
from tests.streaming import Bed, call_rows, database, shared_stack, stream_stack, until, us

__all__ = ["stream_stack"]

pytestmark = pytest.mark.timeout(600)
RULES = ResolutionConfig(servers=("a",), late_horizon_seconds=1.0)


@pytest.fixture
def bed(tmp_path: Path, stream_stack: Stack) -> Iterator[Bed]:
    with database(stream_stack.sink) as dsn, Bed(dsn, tmp_path, resolution=RULES) as bed:
        yield bed


def forget(bed: Bed, at: float) -> None:
    """Time goes on until nothing is held."""
    for step in range(3):
        bed.beat(at + 100 * step)
    bed.flush()

    def forgotten() -> bool:
        # a status from before that time may hold nothing either
        partitions = [p for s in bed.statuses().values() for p in s["partitions"].values()]
        return bool(partitions) and all(
            p["open_calls"] == 0 and (p["watermark_us"] or 0) > us(at + 100) for p in partitions
        )

    until(forgotten, "all is forgotten")


def test_a_late_bye_of_a_forgotten_call_makes_the_right_revision(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    rows = call_rows("late@host", 0, seconds=40_000)
    bed.put_rows(rows[:2])
    bed.beat(30_000)
    bed.flush()
    until(lambda: bed.query("SELECT 1 FROM cdrs WHERE termination = 'U'"), "told as unknown")
    forget(bed, 30_100)
    shared_stack().sink.stop("fast")  # what must be looked up waits for the database
    try:
        bed.put_rows(rows[2:])
        bed.put_rows(call_rows("other@host", 40_010))
        bed.beat(40_100)
        bed.flush()
        until(lambda: worker.logged("commit_failed"), "it says that the sink is away")
    finally:
        shared_stack().sink.start()
    bed.beat(40_200)
    bed.flush()
    until(lambda: bed.query("SELECT 1 FROM cdrs WHERE call_id = 'late@host' AND termination = 'C'"),
          "told as completed")  # fmt: skip
    assert bed.query(
        "SELECT revision, jsonb_array_length(events), late_events, changed->'termination'"
        " FROM cdr_provenance WHERE call_id = 'late@host'"
    ) == [(3, 3, 1, ["U", "C"])]
    until(lambda: bed.cdr_ids() == ["late@host", "other@host"], "the call behind it too")
    assert worker.stop() == 0


def test_a_bye_waits_for_the_server_that_saw_its_call_begin(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    *began, end = call_rows("orphan@host", 0, seconds=30)
    bed.put_rows([end])
    bed.beat(1_000)
    bed.flush()
    kept = "SELECT hidden_reason FROM cdr_provenance WHERE call_id = 'orphan@host'"
    until(lambda: bed.query(kept) == [("end only",)], "the BYE is kept")
    assert bed.cdr_ids() == []
    forget(bed, 30_000)
    bed.put_rows(began)
    bed.beat(40_000)
    bed.beat(40_100)
    bed.flush()
    until(lambda: bed.cdr_ids() == ["orphan@host"], "its call has a record")
    [(termination, seconds)] = bed.query(
        "SELECT termination, extract(epoch FROM end_time - connect_time)::int FROM cdrs"
    )
    assert (termination, seconds) == ("C", 30)
    assert bed.query(kept) == [(None,)]
    assert worker.stop() == 0


def test_a_chain_whose_named_call_comes_days_later_is_hidden_still(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    legs = [f"leg-{n}@host" for n in range(6)]
    for n, leg in enumerate(legs):
        rows = call_rows(leg, 0, seconds=5)
        rows[0]["reference"] = f"named-{n}@host;rel=chain"
        bed.put_rows(rows)
    bed.beat(100)
    bed.flush()
    until(lambda: bed.cdr_ids() == legs, "the legs are told")
    bed.beat(200)
    bed.flush()
    for n in range(6):
        bed.put_rows(call_rows(f"named-{n}@host", 100_000, seconds=5))
    step = iter(range(100_100, 1_000_000, 100))

    def hidden() -> bool:
        bed.beat(next(step))
        bed.flush()
        return bed.cdr_ids() == [f"named-{n}@host" for n in range(6)]

    until(hidden, "the legs are hidden")
    assert bed.query("SELECT DISTINCT revision, hidden_reason FROM cdr_provenance"
                     " WHERE hidden_reason IS NOT NULL") == [(4, "leg of a chain")]  # fmt: skip
    assert worker.stop() == 0


def test_a_call_id_that_begins_again_after_the_horizon_makes_a_second_record(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    bed.put_rows(call_rows("again@host", 0, seconds=5))
    bed.beat(100)
    bed.flush()
    until(lambda: bed.cdr_ids() == ["again@host"], "the first call is told")
    forget(bed, 10_000)
    second = [
        {**row, "id": row["id"] + 1_000_003, "from_tag": "g"}
        for row in call_rows("again@host", 20_000, seconds=7)
    ]
    bed.put_rows(second)
    bed.beat(20_100)
    bed.flush()
    both = ["again@host", "again@host;from-tag=g"]
    until(lambda: bed.cdr_ids() == both, "the second call has a record of its own")
    forget(bed, 30_000)
    bed.put_rows([{**second[2], "id": second[2]["id"] + 1}])  # its BYE once more, hours later
    bed.beat(40_000)
    bed.beat(40_100)
    bed.flush()
    until(
        lambda: bed.query(
            "SELECT 1 FROM cdr_provenance WHERE call_id = %s AND revision = 7", both[1]
        ),
        "what comes late finds both calls",
    )
    assert bed.query(
        "SELECT call_id, extract(epoch FROM end_time - connect_time)::int FROM cdrs ORDER BY 1"
    ) == [(both[0], 5), (both[1], 7)]
    assert worker.stop() == 0
