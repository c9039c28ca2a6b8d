"""The reader under faults: whatever dies, nothing is lost, and nothing is confirmed too early."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from cdc.lsn import parse_lsn
from ops.stack.stack import Stack
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(rough_stack: Stack) -> Stack:
    return rough_stack


async def test_sigkill_under_load_loses_nothing(bed: Bed) -> None:
    with bed.load() as load:
        for _ in range(3):
            seen = len(bed.events()) if bed.confirmed() else 0

            def goes_on(seen: int = seen) -> bool:
                """It has read rows and confirmed some: a killed one begins behind those."""
                if not (confirmed := bed.confirmed()):
                    return False
                new = bed.events()[seen:]
                passed = (parse_lsn(event.value["lsn"]) < confirmed for event in new)
                return len({event.row["id"] for event in new}) > 300 and any(passed)

            with bed.process() as process:
                await until(goes_on)
                process.kill()
                assert process.wait() == -signal.SIGKILL
        load.stop()
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    # repeats are what had been read and not been confirmed: a moment's worth, never everything
    assert sum(arrived.values()) < 2 * len(arrived)


async def test_broker_killed_under_load(bed: Bed, stack: Stack) -> None:
    with bed.load() as load:
        async with bed.reading() as reader:
            await streaming(reader)
            for _ in range(2):
                await until(lambda: reader.metrics.rows_published_total > 0)
                await asyncio.to_thread(stack.broker.kill)
                seen = load.committed
                await until(lambda seen=seen: load.committed > seen + 300)  # type: ignore[misc]
                await until(lambda: reader.metrics.unacked_records > 0)
                await asyncio.to_thread(stack.broker.start)
                await until(lambda: reader.metrics.unacked_records == 0)
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert set(arrived.values()) == {1}, "the producer survived: it repeats nothing"


async def test_reader_and_broker_killed_under_load(bed: Bed, stack: Stack) -> None:
    with bed.load() as load:
        with bed.process() as process:
            await until(lambda: bed.confirmed() > 0)
            await until(
                lambda: any(parse_lsn(e.value["lsn"]) < bed.confirmed() for e in bed.events())
            )
            await asyncio.to_thread(stack.broker.kill)
            seen = load.committed
            await until(lambda: load.committed > seen + 300)
            process.kill()
            process.wait()
        await asyncio.to_thread(stack.broker.start)
        held, before = bed.confirmed(), set(bed.event_ids())
        load.stop()
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    confirmed = {e.row["id"] for e in bed.events() if parse_lsn(e.value["lsn"]) < held}
    assert confirmed
    assert confirmed <= before, "a row was confirmed that Kafka did not hold"


async def test_nothing_is_confirmed_while_kafka_is_away(bed: Bed, stack: Stack) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        await all_arrived(bed)
        await until(lambda: reader.metrics.unacked_records == 0)
        stack.broker.pause()
        try:
            with bed.connect() as conn:
                (before,) = conn.execute(
                    "select (pg_current_wal_lsn() - '0/0')::int8"
                ).fetchone() or (0,)
            bed.insert(50)
            await until(lambda: reader.metrics.unacked_records == 50)
            told_at = time.time()

            def told() -> bool:
                with bed.connect() as conn:
                    row = conn.execute(
                        "select extract(epoch from reply_time) from pg_stat_replication"
                        " join pg_replication_slots on active_pid = pid where slot_name = %s",
                        (bed.settings().slot_name,),
                    ).fetchone()
                return row is not None and float(row[0]) > told_at + 1

            await until(told, what="statuses go on while stalled")
            assert bed.confirmed() <= before
        finally:
            stack.broker.resume()
        assert set((await all_arrived(bed)).values()) == {1}
        await until(lambda: bed.confirmed() > before)


async def test_memory_is_bounded_while_kafka_is_away(bed: Bed, stack: Stack) -> None:
    bound = 2 * 1024 * 1024
    async with bed.reading(bed.settings(buffer_bytes_max=bound, drain_messages_max=100)) as reader:
        await streaming(reader)
        bed.insert(1)
        await all_arrived(bed)
        stack.broker.pause()
        try:
            bed.insert(20_000)
            await until(lambda: reader.metrics.buffer_bytes > bound)
            read = reader.metrics.rows_read_total
            seen = reader.metrics.confirmed_lsn
            bed.insert(100)
            await until(lambda: reader.metrics.confirmed_lsn == seen)
            assert reader.metrics.rows_read_total == read < 3_000
            assert reader.metrics.buffer_bytes < bound + 500_000
        finally:
            stack.broker.resume()
        arrived = await all_arrived(bed)
    assert set(arrived.values()) == {1}


async def test_server_crashes_under_load(bed: Bed, stack: Stack) -> None:
    with bed.load() as load:
        async with bed.reading() as reader:
            await streaming(reader)
            for _ in range(2):
                seen = reader.metrics.rows_published_total
                await until(
                    lambda seen=seen: reader.metrics.rows_published_total > seen + 200  # type: ignore[misc]
                )
                await asyncio.to_thread(stack["a"].kill)
                await until(lambda: reader.state == "retrying")
                await asyncio.to_thread(stack["a"].start)
                await streaming(reader)
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) >= bed.ids()
    assert reader.metrics.gaps_total == 0


async def test_server_stops_in_order_while_a_reader_is_attached(bed: Bed, stack: Stack) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(500)
        began = time.monotonic()
        assert await asyncio.to_thread(stack["a"].stop, "fast", 120.0)
        assert time.monotonic() - began < 25  # 30 s where it is not confirmed
        await asyncio.to_thread(stack["a"].start)
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert set(arrived.values()) == {1}


async def test_walsender_and_reader_connections_killed(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        for backend in ("walsender", "client backend"):
            bed.insert(100)
            with bed.connect() as conn:
                before = reader.metrics.reconnects_total
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'cdrstream' and backend_type = %s",
                    (backend,),
                )
            await until(lambda before=before: reader.metrics.reconnects_total > before)  # type: ignore[misc]
            await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()


async def test_sigterm_confirms_and_ends_in_time(bed: Bed) -> None:
    with bed.load() as load, bed.process() as process:
        # By their positions: rows of the backfill, all of one, do not count.
        await until(lambda: len({event.value["lsn"] for event in bed.events()}) > 150)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert time.monotonic() - began < 10
        load.stop()
    # What was half received comes again, nothing else does: a transaction at most.
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    twice = {e.value["lsn"] for e in bed.events() if arrived[e.row["id"]] > 1}
    assert len(twice) <= 1


async def test_sigterm_while_kafka_is_away_ends_in_time(bed: Bed, stack: Stack) -> None:
    with bed.process() as process:
        bed.insert(10)
        await until(lambda: len(bed.event_ids()) == 10)
        stack.broker.pause()
        try:
            bed.insert(10)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0
            assert time.monotonic() - began < 10
        finally:
            stack.broker.resume()
    async with bed.reading() as reader:
        await streaming(reader)
        assert set(await all_arrived(bed)) == bed.ids()


async def test_frozen_reader_comes_back(bed: Bed) -> None:
    with bed.process(slot_wait_seconds=5) as process:
        bed.insert(100)
        await until(lambda: bed.confirmed() and len(bed.event_ids()) == 100)
        process.send_signal(signal.SIGSTOP)
        with bed.connect() as conn:
            conn.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots"
                " where slot_name = %s",
                (bed.settings().slot_name,),
            )
            bed.insert(100)
        process.send_signal(signal.SIGCONT)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
