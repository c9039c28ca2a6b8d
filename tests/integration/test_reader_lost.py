"""Slots that are lost: warned of before, replaced after, and what is missing said in numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from callstate.envelope import Gap, read_message
from ops.stack.postgres import ServerSpec
from ops.stack.stack import Stack
from tests import cli_kit
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(rough_stack: Stack) -> Stack:
    return rough_stack


@pytest.fixture(scope="module", autouse=True)
def others(servers: Callable[[Sequence[ServerSpec]], None]) -> None:
    tight = {
        "max_slot_wal_keep_size": "32MB",
        "min_wal_size": "32MB",
        "max_wal_size": "64MB",
        "checkpoint_timeout": "1h",
    }
    servers([ServerSpec("tight", settings=tight), ServerSpec("b")])


@pytest.fixture
def bed(make_bed: Callable[..., Bed]) -> Bed:
    made = make_bed("tight")
    with made.connect() as conn:
        conn.execute("create table other (x text)")
    return made


def write_log(bed: Bed, megabytes: int) -> None:
    with bed.connect() as conn:
        for _ in range(megabytes):
            conn.execute(
                "insert into other select repeat(md5(i::text), 30) from generate_series(1, 1000) i"
            )
        conn.execute("truncate other")


def lose_slot(bed: Bed) -> None:
    """Writes log until the slot is invalidated."""
    with bed.connect() as conn:
        for _ in range(10):
            write_log(bed, 20)
            conn.execute("checkpoint")
            if wal_status(bed) == "lost":
                return
    raise AssertionError("the slot survived")


def wal_status(bed: Bed) -> str:
    with bed.connect() as conn:
        row = conn.execute(
            "select wal_status from pg_replication_slots where slot_name = %s",
            (bed.settings().slot_name,),
        ).fetchone()
    assert row is not None
    return str(row[0])


async def held(bed: Bed, highest_id: int) -> None:
    """Waits until the reader has stored that it holds all rows up to this id."""
    positions = bed.settings().topics.positions
    await until(lambda: bed.records(positions)[-1].value["held_id"] == highest_id)


def gap_of(bed: Bed) -> Gap:
    gaps = [record for record in bed.records() if record.kind == "gap"]
    assert sorted(record.partition for record in gaps) == [0, 1, 2]
    gap = read_message("gap", gaps[0].value)
    assert isinstance(gap, Gap)
    return gap


async def test_purged_rows_are_counted_by_their_ids(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(100)
        await all_arrived(bed)
        await held(bed, 100)
    bed.insert(50)
    lose_slot(bed)
    with bed.connect() as conn:
        conn.execute("delete from call_state_events where id between 96 and 120")
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == set(range(1, 101)) | set(range(121, 151))
    assert reader.metrics.rows_lost_total == 20
    gap = gap_of(bed)
    assert "up to 20 rows with ids between 101 and 150 are lost" in gap.reason
    assert 0 < gap.from_us < gap.to_us
    async with bed.reading() as reader:  # and from then on as ever
        await streaming(reader)
        assert reader.metrics.gaps_total == 0


async def test_nothing_lost_is_said_too(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        await all_arrived(bed)
        await held(bed, 10)
    bed.insert(10)
    lose_slot(bed)
    async with bed.reading() as reader:
        await streaming(reader)
        assert set(await all_arrived(bed)) == bed.ids()
    assert reader.metrics.rows_lost_total == 0
    assert gap_of(bed).reason.endswith("no row was purged meanwhile")


async def test_a_slot_that_is_invalidated_while_streaming(
    bed: Bed, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    async with bed.reading(bed.settings(slot_check_seconds=0.1)) as reader:
        await streaming(reader)
        bed.insert(10)
        await all_arrived(bed)
        await until(lambda: reader.metrics.slot_safe_wal_bytes)
        stack.broker.pause()  # nothing is confirmed any more
        try:
            bed.insert(10)
            for _ in range(6):
                write_log(bed, 3)
                seen = reader.metrics.slot_retained_bytes
                await until(lambda seen=seen: reader.metrics.slot_retained_bytes != seen)  # type: ignore[misc]
            assert reader.metrics.slot_seconds_left is not None
            assert reader.metrics.slot_seconds_left < 600
            await asyncio.to_thread(lose_slot, bed)
            await until(lambda: reader.state == "retrying")
        finally:
            stack.broker.resume()
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    (gap,) = {gap_of(bed)}
    assert "invalidated" in gap.reason
    warned = [r for r in caplog.records if r.message == "slot_room_runs_out"]
    assert warned
    assert warned[0].__dict__["seconds_left"] > 0
    assert "max_slot_wal_keep_size" in warned[0].__dict__["advice"]


async def test_the_room_is_watched_while_nothing_can_be_read(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
    away = bed.settings(
        kafka={"bootstrap.servers": "127.0.0.1:1"}, connect_seconds=0.5, slot_check_seconds=0.1
    )
    async with bed.reading(away) as reader:
        await until(lambda: reader.metrics.slot_safe_wal_bytes, what="the slot is looked at")
        assert reader.state == "retrying"
        write_log(bed, 30)
        await until(lambda: "slot_room_runs_out" in [each.message for each in caplog.records])


CALL = (
    "INSERT INTO call_state_events (observer, event_seq, event_time, event_type, cseq, call_id,"
    " from_tag, to_tag, from_url, to_url, branch_id, via_count) VALUES ('b:5060', 1,"
    " clock_timestamp() at time zone 'utc', %s, %s, %s, 'f', %s, '<sip:1@h>;tag=f', '<sip:2@h>',"
    " 'b', 1)"
)


def test_calls_in_the_gap_are_marked_suspect_in_the_sink(stack: Stack, tmp_path: Path) -> None:
    server = stack["b"]
    config = cli_kit.write_config(tmp_path / "lost.toml", stack, [server])
    text = config.read_text().replace(f"port={stack['a'].port}", f"port={server.port}")
    config.write_text(text)  # one server is everything: the sink and the reference too
    done = cli_kit.cdrstream("provision", *cli_kit.admins([server]), config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    with (
        server.connect() as conn,
        cli_kit.service("worker", config=config, log=tmp_path / "worker.log"),
    ):
        with cli_kit.service("reader", config=config, log=tmp_path / "reader.log"):
            for kind, cseq, tag in (("R", 1, ""), ("S", 1, "t"), ("E", 2, "t")):
                conn.execute(CALL, (kind, cseq, "whole@h", tag))
            conn.execute(CALL, ("R", 1, "cut@h", ""))
            cli_kit.until(
                lambda: conn.execute("SELECT FROM cdrs WHERE call_id = 'whole@h'").rowcount
            )
        conn.execute("SELECT pg_drop_replication_slot('cdrstream_b')")
        conn.execute(CALL, ("S", 1, "cut@h", "t"))
        conn.execute("DELETE FROM call_state_events WHERE event_type = 'S' AND call_id = 'cut@h'")
        conn.execute(CALL, ("E", 2, "cut@h", "t"))
        with cli_kit.service("reader", config=config, log=tmp_path / "again.log"):
            cli_kit.until(lambda: conn.execute("SELECT FROM cdr_gaps").rowcount)
            cli_kit.until(lambda: conn.execute("SELECT FROM cdrs WHERE call_id = 'cut@h'").rowcount)
        (reason,) = conn.execute("SELECT reason FROM cdr_gaps").fetchone() or ("",)
        assert "up to 1 rows with ids between 5 and 6 are lost" in reason
        suspects = dict(conn.execute("SELECT call_id, suspect FROM cdr_provenance").fetchall())
        assert suspects == {"whole@h": False, "cut@h": True}
