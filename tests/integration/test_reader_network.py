"""Networks that drop, delay, fall silent, and end in the middle of a message, on both sides."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from ops.stack.stack import Stack
from tests.proxy import Proxy
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(rough_stack: Stack) -> Stack:
    return rough_stack


@pytest.fixture
def proxy(stack: Stack) -> Iterator[Proxy]:
    """In front of the server."""
    with Proxy(stack["a"].port).running() as running:
        yield running


def through(bed: Bed, proxy: Proxy) -> str:
    return bed.stack["a"].dsn_for(bed.name, port=proxy.port)


async def test_the_way_to_the_server_breaks_in_every_way(bed: Bed, proxy: Proxy) -> None:
    settings = bed.settings(dsn=through(bed, proxy), silence_seconds=2.0)
    with bed.load() as load:
        async with bed.reading(settings) as reader:
            await streaming(reader)

            async def after(break_it: str) -> None:
                seen = reader.metrics.rows_published_total
                await until(lambda: reader.metrics.rows_published_total > seen + 50, what=break_it)

            proxy.cut()
            await after("cut")
            for size in (1, 20_000, 50_001, 77_777):
                proxy.truncate_after(size)
                reconnects = reader.metrics.reconnects_total
                await until(
                    lambda before=reconnects: reader.metrics.reconnects_total > before,  # type: ignore[misc]
                    what="truncated",
                )
                await after(f"truncated after {size}")
            proxy.delay(0.02)
            await after("delayed")
            proxy.delay(0)
            proxy.silence(True)
            reconnects = reader.metrics.reconnects_total
            await until(lambda: not _is_active(bed), what="the server gives up on a silent reader")
            proxy.silence(False)
            await after("silent")
            proxy.refuse(True)
            await until(lambda: reader.state == "retrying")
            proxy.refuse(False)
            await after("refused")
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert reader.metrics.gaps_total == 0


def _is_active(bed: Bed) -> bool:
    with bed.connect() as conn:
        row = conn.execute(
            "select active from pg_replication_slots where slot_name = %s",
            (bed.settings().slot_name,),
        ).fetchone()
    assert row is not None
    return bool(row[0])


async def test_the_way_to_the_broker_breaks_in_every_way(
    bed: Bed, broker_proxy: Proxy, stack: Stack
) -> None:
    kafka = {
        "bootstrap.servers": stack.broker.second_bootstrap_servers,
        "socket.timeout.ms": 3_000,
    }
    with bed.load() as load:
        async with bed.reading(bed.settings(kafka=kafka)) as reader:
            await streaming(reader)
            assert broker_proxy.connections

            async def after(break_it: str) -> None:
                seen = reader.metrics.rows_published_total
                await until(lambda: reader.metrics.rows_published_total > seen + 50, what=break_it)

            broker_proxy.cut()
            await after("cut")
            for size in (10, 30_000, 65_537):
                broker_proxy.truncate_after(size)
                connections = broker_proxy.connections
                await until(
                    lambda before=connections: broker_proxy.connections > before,  # type: ignore[misc]
                    what="truncated",
                )
                await after(f"truncated after {size}")
            broker_proxy.delay(0.05)
            await after("delayed")
            broker_proxy.delay(0)
            broker_proxy.silence(True)
            await until(lambda: reader.metrics.unacked_records > 200)
            connections = broker_proxy.connections
            await until(lambda: broker_proxy.connections > connections, what="a new connection")
            broker_proxy.silence(False)
            await until(lambda: reader.metrics.unacked_records < 100)
            broker_proxy.refuse(True)
            await until(lambda: reader.metrics.unacked_records > 200)
            broker_proxy.refuse(False)
            await after("refused")
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert set(arrived.values()) == {1}, "an idempotent producer repeats nothing"


async def test_server_and_broker_out_of_reach_at_once(
    bed: Bed, proxy: Proxy, broker_proxy: Proxy, stack: Stack
) -> None:
    kafka = {"bootstrap.servers": stack.broker.second_bootstrap_servers}
    settings = bed.settings(dsn=through(bed, proxy), kafka=kafka)
    with bed.load() as load:
        async with bed.reading(settings) as reader:
            await streaming(reader)
            await until(lambda: reader.metrics.rows_published_total > 100)
            broker_proxy.refuse(True)
            await until(lambda: reader.metrics.unacked_records > 100)
            proxy.refuse(True)
            await until(lambda: reader.state == "retrying")
            seen = load.committed
            await until(lambda: load.committed > seen + 300)
            proxy.refuse(False)
            await until(lambda: "KafkaUnreachable" in type(reader.last_error).__name__)
            broker_proxy.refuse(False)
            await streaming(reader)
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()


async def test_a_frozen_reader_is_dropped_and_comes_back(bed: Bed) -> None:
    bed.insert(100)
    with bed.load() as load, bed.process(silence_seconds=1.0) as process:
        await until(lambda: bed.confirmed() and len(bed.event_ids()) > 200)
        process.send_signal(signal.SIGSTOP)
        await until(lambda: not _is_active(bed), what="beyond wal_sender_timeout")
        seen = load.committed
        await until(lambda: load.committed > seen + 200)
        process.send_signal(signal.SIGCONT)
        load.stop()
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()


async def test_a_walsender_and_a_postmaster_that_are_killed(bed: Bed, stack: Stack) -> None:
    with bed.load() as load:
        async with bed.reading() as reader:
            await streaming(reader)
            with bed.connect() as conn:
                (pid,) = conn.execute("select active_pid from pg_replication_slots").fetchone() or (
                    0,
                )
            before = reader.metrics.reconnects_total
            _kill(pid)  # the whole server restarts itself
            await until(lambda: reader.metrics.reconnects_total > before)  # for a moment only
            await streaming(reader)
            seen = reader.metrics.rows_published_total
            await until(lambda: reader.metrics.rows_published_total > seen + 100)
            _kill(stack["a"].pid)  # the postmaster alone: its children notice and end
            await until(lambda: reader.state == "retrying")
            await asyncio.to_thread(stack["a"].kill)
            await asyncio.to_thread(stack["a"].start)
            await streaming(reader)
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def test_a_standby_of_a_machine_that_died_takes_over(bed: Bed, proxy: Proxy) -> None:
    """No word and no end of the connection: the server has to notice by itself."""
    dead = bed.settings(dsn=through(bed, proxy), silence_seconds=2.0)
    async with bed.reading(dead) as first:
        await streaming(first)
        async with bed.reading(bed.settings()) as second:
            await until(lambda: second.state == "standby")
            proxy.silence(True)
            await streaming(second, 40)  # a server that nobody told how to notice takes 60 s
            bed.insert(50)
            arrived = await all_arrived(bed)
            assert set(arrived.values()) == {1}
        proxy.cut()
        proxy.silence(False)
