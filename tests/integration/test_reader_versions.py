"""What the reader rests on, on every version of PostgreSQL that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ops.stack.postgres import ServerSpec
from ops.stack.stack import Stack
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)

VERSIONS = ("14", "15", "16", "17", "18")
_TIGHT = {
    "max_slot_wal_keep_size": "32MB",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
    "shared_buffers": "16MB",
}


@pytest.fixture(scope="module", autouse=True)
def all_versions(servers: Callable[[Sequence[ServerSpec]], None]) -> None:
    servers([ServerSpec(f"v{each}", version=each, settings=_TIGHT) for each in VERSIONS])


@pytest.fixture(params=VERSIONS)
def bed(make_bed: Callable[..., Bed], stack: Stack, request: pytest.FixtureRequest) -> Bed:
    made = make_bed(f"v{request.param}")
    assert stack[made.server_name].major == request.param
    return made


async def test_backfill_stream_restart_and_crash(bed: Bed) -> None:
    bed.insert(1_000)
    with bed.load() as load:
        async with bed.reading(bed.settings(backfill_rows=100)) as reader:
            await streaming(reader)
            seen = load.committed
            await until(lambda: load.committed > seen + 50)
            with bed.connect() as conn:
                conn.execute("alter table call_state_events add column site text")
            await until(lambda: load.committed > seen + 100)
        with bed.process() as process:
            have = len(bed.event_ids())
            await until(lambda: len(bed.event_ids()) > have + 50)
            process.kill()
        load.stop()
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
        await until(lambda: reader.metrics.unacked_records == 0)
        await until(lambda: any(record.kind == "heartbeat" for record in bed.records()))
    assert set(arrived) == bed.ids()


async def test_a_lost_slot_is_replaced(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(20)
        await all_arrived(bed)
        positions = bed.settings().topics.positions
        await until(lambda: bed.records(positions)[-1].value["held_id"] == 20)
    bed.insert(20)
    with bed.connect() as conn:
        conn.execute("create table other (x text)")
        for _ in range(20):
            conn.execute(
                "insert into other select repeat(md5(i::text), 300) from generate_series(1, 1000) i"
            )
            conn.execute("select pg_switch_wal()")
            conn.execute("truncate other")
            conn.execute("checkpoint")
            (status,) = conn.execute(
                "select wal_status from pg_replication_slots where slot_name = %s",
                (bed.settings().slot_name,),
            ).fetchone() or ("",)
            if status == "lost":
                break
        assert status == "lost"
        conn.execute("delete from call_state_events where id = 30")
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids() | set(range(1, 21))
    assert (reader.metrics.gaps_total, reader.metrics.rows_lost_total) == (1, 1)


async def test_slots_go_over_to_standbys_where_the_server_can(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        if int(bed.server_name[1:]) < 17:
            return
        with bed.connect() as conn:
            row = conn.execute(
                "select failover from pg_replication_slots where slot_name = %s",
                (bed.settings().slot_name,),
            ).fetchone()
    assert row == (True,)
