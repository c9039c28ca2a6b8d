"""What could go wrong at a reader without a word: each was tried, and lost or invented rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cdc.connect import connect_walsender
from cdc.reader import ServerReader
from cdc.slot import branched_at, identify
from ops.stack.stack import Stack
from tests.proxy import Proxy
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(300)


async def test_what_was_handed_over_of_another_history_skips_nothing(bed: Bed) -> None:
    """Two readers of a server that failed over: the other one followed it, and this one is next.

    It had handed over more of the old history than the other one has read of the new.
    """
    async with bed.reading() as first:
        await streaming(first)
        bed.insert(3)
        await all_arrived(bed)
    bed.insert(5)
    with bed.connect() as conn:
        (lsn,) = conn.execute("select (pg_current_wal_lsn() - '0/0')::int8").fetchone() or (0,)
    reader, stop = ServerReader(bed.settings()), asyncio.Event()
    reader._publisher.history = ("the same system", 0, 0)
    reader._publisher.positions.add(0, 0, lsn)
    running = asyncio.ensure_future(reader.run(stop))
    try:
        await streaming(reader)
        bed.insert(2)
        arrived = await all_arrived(bed)
    finally:
        stop.set()
        await asyncio.wait_for(running, 15)
    assert set(arrived.values()) == {1}


async def test_a_reference_that_hangs_keeps_no_reader_from_reading(bed: Bed, stack: Stack) -> None:
    """Its kernel answers for it: no time limit of the network says that it is away."""
    with Proxy(stack["b"].port).running() as proxy:
        reference = f"{stack['b'].dsn_for()} host=127.0.0.1 port={proxy.port}"
        settings = bed.settings(
            reference=False, reference_dsn=reference, probe_seconds=0.2, connect_seconds=1.0
        )
        async with bed.reading(settings) as reader:
            await streaming(reader)
            await until(lambda: reader.metrics.clock_probed_us)
            proxy.silence(True)
            with bed.connect() as conn:
                conn.execute("select pg_terminate_backend(active_pid) from pg_replication_slots")
            await until(lambda: reader.metrics.reconnects_total)
            bed.insert(5)
            await all_arrived(bed, 60)
            await until(lambda: reader.metrics.clock_probe_failures_total)
            proxy.silence(False)


async def test_a_table_of_the_same_name_is_not_ours(make_bed: Callable[..., Bed]) -> None:
    """An archive that an operator keeps in a schema of its own, in a publication of all tables."""
    bed = make_bed(provision=False)
    with bed.connect() as conn:
        conn.execute("create publication cdrstream for all tables with (publish = 'insert')")
        conn.execute("create schema archive")
        conn.execute("create table archive.call_state_events (like call_state_events)")
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(5)
        with bed.connect() as conn:
            conn.execute("insert into archive.call_state_events select * from call_state_events")
        bed.insert(1)
        arrived = await all_arrived(bed)
    assert arrived == dict.fromkeys(range(1, 7), 1)


async def test_a_server_of_an_earlier_timeline_is_no_descendant(bed: Bed) -> None:
    """The first timeline has no history that could be asked for."""
    walsender = await connect_walsender(
        bed.dsn, connect_seconds=10, raw=False, slot_wait_seconds=10, silence_seconds=30
    )
    try:
        assert (await identify(walsender)).timeline == 1
        assert await branched_at(walsender, 1, 2) is None
        assert await branched_at(walsender, 1, 1) is None
    finally:
        await walsender.close()
