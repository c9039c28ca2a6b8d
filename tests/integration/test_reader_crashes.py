"""A reader that dies at every step between receiving a row and confirming it."""

from __future__ import annotations

import asyncio
import signal

import pytest

from cdc.lsn import parse_lsn
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)

Crash = tuple[str, str, int]

STREAMING: list[Crash] = [
    ("cdc.wal_stream:WalStream.start", "after", 1),
    ("cdc.wal_stream:WalStream.drain", "after", 4),
    ("cdc.pgoutput:Decoder.feed", "after", 4),
    ("cdc.publisher:Publisher._produce", "before", 4),
    ("cdc.publisher:Publisher._produce", "after", 4),
    ("cdc.positions:Positions.settle", "after", 4),
    ("cdc.session:Session._beat", "before", 1),
    ("cdc.session:Session._beat", "after", 1),
    ("cdc.position_keeper:PositionKeeper.put", "before", 2),
    ("cdc.position_keeper:PositionKeeper.put", "after", 2),
    ("cdc.wal_stream:WalStream.confirm", "before", 4),
    ("cdc.wal_stream:WalStream.confirm", "after", 4),
]
BEGINNING: list[Crash] = [
    ("cdc.starting:create_slot", "after", 1),
    ("cdc.position_keeper:PositionKeeper.put", "before", 1),
    ("cdc.position_keeper:PositionKeeper.put", "after", 1),
    ("cdc.snapshot:Backfill.begin", "after", 1),
    ("cdc.starting:Starting._note", "after", 5),
    ("cdc.snapshot:Backfill.end", "before", 1),
    ("cdc.snapshot:Backfill.end", "after", 1),
    ("cdc.starting:Starting._backfill", "after", 1),
]
LOST: list[Crash] = [
    ("cdc.starting:Starting._create", "before", 1),
    ("cdc.starting:Starting._create", "after", 1),
    ("cdc.starting:Starting._count_lost", "after", 1),
    ("cdc.publisher:Publisher.begin_anew", "before", 1),
    ("cdc.starting:Starting._anew", "after", 1),
]


async def dies(bed: Bed, crash: Crash, **more: object) -> None:
    """Runs a reader until it dies at that point."""
    with bed.process(crash=list(crash), **more) as process:
        assert await asyncio.to_thread(process.wait, 120) == -signal.SIGKILL, crash


async def everything_is_there(bed: Bed) -> None:
    """A reader that lives brings what is missing; nothing was invented."""
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
        await until(lambda: reader.metrics.unacked_records == 0)
    assert set(arrived) == bed.ids()
    rows = {event.row["id"]: event.row for event in bed.events()}
    assert all(rows[event.row["id"]] == event.row for event in bed.events()), "repeats are equal"


async def test_dying_while_streaming(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
    told: list[tuple[int, set[int]]] = []
    with bed.load() as load:
        for crash in STREAMING:
            await dies(bed, crash)
            told.append((bed.confirmed(), set(bed.event_ids())))
            seen = load.committed
            await until(lambda seen=seen: load.committed > seen)  # type: ignore[misc]
        load.stop()
    await everything_is_there(bed)
    for confirmed, held in told:
        before = {e.row["id"] for e in bed.events() if parse_lsn(e.value["lsn"]) < confirmed}
        assert before <= held, "a row was confirmed that Kafka did not hold"
    assert told[-1][1]


async def test_dying_while_beginning(bed: Bed) -> None:
    bed.insert(2_000)
    with bed.load() as load:
        for crash in BEGINNING:
            await dies(bed, crash, backfill_rows=100, position_seconds=0.0)
        load.stop()
    await everything_is_there(bed)
    assert not [record for record in bed.records() if record.kind == "gap"]


async def test_dying_while_a_lost_slot_is_replaced(bed: Bed) -> None:
    bed.insert(100)
    async with bed.reading() as reader:
        await streaming(reader)
        await all_arrived(bed)
    with bed.connect() as conn:
        conn.execute("select pg_drop_replication_slot(%s)", (bed.settings().slot_name,))
    with bed.load() as load:
        await until(lambda: load.committed > 100)
        for crash in LOST:
            await dies(bed, crash)
        load.stop()
    await everything_is_there(bed)
    gaps = [record for record in bed.records() if record.kind == "gap"]
    assert {record.partition for record in gaps} == {0, 1, 2}


async def test_sigterm_inside_a_transaction_repeats_that_transaction_only(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
    for _ in range(20):
        bed.insert(5)
    bed.insert(60_000)
    # At 50 messages a time all before the large one are three times at least, 150 at most; it is
    # over after 1,200 and more.
    amid = ["cdc.publisher:Publisher._produce", "after", 300, signal.SIGTERM]
    with bed.process(drain_messages_max=50, crash=amid) as process:
        assert await asyncio.to_thread(process.wait, 120) == 0
    before = bed.event_ids()
    assert 100 < len(before) < 60_000
    newest = max(parse_lsn(event.value["lsn"]) for event in bed.events())
    async with bed.reading() as again:
        await streaming(again)
        arrived = await all_arrived(bed)
    lsns = {event.row["id"]: parse_lsn(event.value["lsn"]) for event in bed.events()}
    assert {lsns[row] for row, times in arrived.items() if times > 1} == {newest}
    assert {row for row, times in arrived.items() if times > 1} == {
        row for row in before if lsns[row] == newest
    }
    assert set(arrived.values()) == {1, 2}
