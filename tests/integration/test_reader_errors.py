"""What a reader says where it cannot read: one clear error, and what to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from confluent_kafka import Producer
from psycopg.conninfo import make_conninfo

from cdc import errors, position_store
from cdc.exposition import ReaderCollector
from cdc.reader import ServerReader, run_reader, run_readers
from cdc.settings import ReaderSettings
from ops.stack.postgres import ServerSpec
from ops.stack.stack import Stack
from tests.proxy import Proxy
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def others(servers: Callable[[Sequence[ServerSpec]], None]) -> None:
    replica = ServerSpec("replica", settings={"wal_level": "replica"})
    servers([replica, ServerSpec("locked", password="secret")])


@pytest.fixture
def bed(make_bed: Callable[..., Bed]) -> Bed:
    return make_bed(provision=False)


async def fails(settings: ReaderSettings) -> errors.CdcError:
    """The error that ends a reader."""
    with pytest.raises(errors.CdcError) as caught:
        await asyncio.wait_for(run_reader(settings, asyncio.Event()), 120)
    assert caught.value.advice
    return caught.value


async def test_publication_is_missing(bed: Bed) -> None:
    error = await fails(bed.settings())
    assert isinstance(error, errors.PublicationMissing)
    assert str(error) == "publication cdrstream does not exist"
    assert "provision" in error.advice


async def test_publication_lacks_the_table(bed: Bed) -> None:
    with bed.connect() as conn:
        conn.execute("create publication cdrstream for table observer_state_events")
    error = await fails(bed.settings())
    assert "lacks table call_state_events" in str(error)
    assert bed.provision()
    async with bed.reading() as reader:
        await streaming(reader)


async def test_table_dropped_and_made_again_while_running(bed: Bed) -> None:
    bed.provision()
    readers: list[ServerReader] = []
    settings = bed.settings(slot_check_seconds=0.1)
    task = asyncio.ensure_future(run_reader(settings, asyncio.Event(), readers.append))
    await until(lambda: bool(readers))
    await streaming(readers[0])  # a table cannot be dropped while its backfill reads it
    with bed.connect() as conn:
        conn.execute("drop table call_state_events")
        conn.execute("create table call_state_events (id bigserial primary key)")
    with pytest.raises(errors.PublicationMissing):
        await asyncio.wait_for(task, 120)


async def test_wal_level_is_too_low(make_bed: Callable[..., Bed]) -> None:
    error = await fails(make_bed("replica", provision=False).settings())
    assert isinstance(error, errors.NotLogical)
    assert "wal_level is replica, logical is needed" in str(error)


async def test_password_is_wrong(bed: Bed, stack: Stack) -> None:
    dsn = stack["locked"].dsn_for(password="wrong")
    error = await fails(bed.settings(dsn=dsn))
    assert isinstance(error, errors.AccessDenied)
    assert "wrong" not in repr(error)


async def test_database_is_wrong(bed: Bed) -> None:
    error = await fails(bed.settings(dsn=bed.stack["a"].dsn_for("nowhere")))
    assert isinstance(error, errors.DatabaseMissing)


async def test_table_is_missing(bed: Bed) -> None:
    error = await fails(bed.settings(dsn=bed.stack["a"].dsn_for("postgres")))
    assert isinstance(error, errors.TableMissing)


async def test_dsn_is_no_dsn(bed: Bed) -> None:
    error = await fails(bed.settings(dsn="hots=nowhere"))
    assert "dsn cannot be read" in str(error)


async def test_server_that_refuses_connections_is_waited_for(bed: Bed) -> None:
    settings = bed.settings(dsn="host=127.0.0.1 port=1 dbname=x user=x")
    async with bed.reading(settings) as reader:
        await until(lambda: reader.metrics.reconnects_total >= 2)
        assert isinstance(reader.last_error, errors.ServerUnreachable)
        assert reader.state == "retrying"


async def test_broker_that_refuses_connections_is_waited_for(bed: Bed) -> None:
    bed.provision()
    settings = bed.settings(kafka={"bootstrap.servers": "127.0.0.1:1"}, connect_seconds=1.0)
    async with bed.reading(settings) as reader:
        await until(lambda: reader.metrics.reconnects_total >= 2)
        assert isinstance(reader.last_error, errors.KafkaUnreachable)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Kinds of what was said above debug, in its order."""
    return [
        str(record.__dict__["error"])
        for record in caplog.records
        if record.message == "reader_retries" and record.levelno > logging.DEBUG
    ]


async def test_a_server_that_is_away_is_said_while_the_broker_is_away_too(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = {"bootstrap.servers": "127.0.0.1:1"}
    settings = bed.settings(
        kafka=nobody, dsn="host=127.0.0.1 port=1 dbname=x user=x", connect_seconds=1.0
    )
    collector = ReaderCollector()
    async with bed.reading(settings) as reader:
        collector.add(reader)
        await until(lambda: reader.metrics.reconnects_total >= 3 and len(reader.troubles) == 2)
        assert told(caplog)[0] == "ServerUnreachable"  # and not after Kafka, which is waited for
        assert sorted(reader.troubles) == ["KafkaUnreachable", "ServerUnreachable"]
        assert sorted(told(caplog)) == ["KafkaUnreachable", "ServerUnreachable"]
        assert not collector.ready
        assert collector.why == f"{bed.name}: {', '.join(reader.troubles)}"
        (family,) = (f for f in collector.collect() if f.name == "cdrstream_reader_trouble")
        assert {sample.labels["reason"] for sample in family.samples} == set(reader.troubles)


async def test_what_is_over_is_no_trouble_any_more(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    bed.provision()
    with Proxy(bed.stack["a"].port).running() as proxy:
        proxy.refuse(True)
        dsn = make_conninfo(bed.dsn, port=proxy.port)
        async with bed.reading(bed.settings(dsn=dsn)) as reader:
            await until(lambda: reader.metrics.reconnects_total >= 3)
            assert list(reader.troubles) == ["ServerUnreachable"]
            assert told(caplog) == ["ServerUnreachable"]
            proxy.refuse(False)
            await streaming(reader)
            assert not reader.troubles


async def test_a_wrong_password_is_said_while_the_broker_is_away(bed: Bed, stack: Stack) -> None:
    dsn = stack["locked"].dsn_for(password="wrong")
    nobody = {"bootstrap.servers": "127.0.0.1:1"}
    error = await fails(bed.settings(dsn=dsn, kafka=nobody, connect_seconds=1.0))
    assert isinstance(error, errors.AccessDenied)


@pytest.mark.parametrize("change", ["system", "timeline", "future"])
async def test_position_of_another_server_is_refused(bed: Bed, change: str) -> None:
    bed.provision()
    bed.insert(10)
    async with bed.reading() as reader:
        await streaming(reader)
        await all_arrived(bed)
    settings = bed.settings()
    bootstrap = bed.stack.broker.bootstrap_servers
    stored = await asyncio.to_thread(
        position_store.load, settings.kafka, settings.topics.positions, settings.server, 10.0
    )
    assert stored is not None
    changed = {
        "system": replace(stored, system_id="1"),
        "timeline": replace(stored, timeline=7),
        "future": replace(stored, lsn=stored.lsn + (1 << 40)),
    }[change]
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(settings.topics.positions, changed.encode(bed.name), bed.name)
    assert producer.flush(60) == 0
    error = await fails(settings)
    assert isinstance(error, errors.ServerChanged)
    assert error.retry is errors.Retry.NEVER
    bed.insert(10)
    async with bed.reading(bed.settings(accept_server_change=True)) as reader:
        await streaming(reader)
        assert set(await all_arrived(bed)) == bed.ids()
    assert [record.kind for record in bed.records()].count("gap") == 3
    async with bed.reading() as reader:  # and from then on as ever
        await streaming(reader)


async def test_one_broken_server_does_not_stop_the_others(bed: Bed) -> None:
    bed.provision()
    broken = replace(bed.settings(), server="broken", dsn=bed.stack["a"].dsn_for("nowhere"))
    stop = asyncio.Event()
    task = asyncio.ensure_future(run_readers([broken, bed.settings()], stop))
    bed.insert(10)
    await until(lambda: bed.confirmed() > 0)
    await all_arrived(bed)
    stop.set()
    await asyncio.wait_for(task, 60)


async def test_open_transaction_that_blocks_the_slot_is_named(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    bed.provision()
    with bed.connect() as conn:
        pid = conn.info.backend_pid
        conn.execute("begin")
        conn.execute("insert into observer_state_events values (1, 'o', 1, now(), 101, '')")
        async with bed.reading(bed.settings(slot_wait_seconds=4.0)) as reader:
            await until(lambda: isinstance(reader.last_error, errors.SlotBlocked))
            conn.execute("rollback")
            await streaming(reader)
    named = [r for r in caplog.records if r.message == "slot_waits_for_transaction"]
    assert named[0].__dict__["pid"] == pid
    assert named[0].__dict__["query"] == "insert into"


def test_secrets_are_not_shown(bed: Bed) -> None:
    settings = bed.settings(dsn="password=hush", kafka={"sasl.password": "hush"})
    assert "hush" not in repr(settings)
