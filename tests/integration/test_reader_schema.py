"""Tables that change while they are read: columns, purges, publications, encodings, size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cdc import errors
from cdc.reader import run_reader
from tests.reader_kit import TABLES, Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


async def test_columns_come_and_go_under_load(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    steps = [
        "add column site text default 'x'",
        "drop column refer_to",
        "rename column callee_route to route",
        "alter column cseq type int8",
        "alter column failure_reason type varchar(80)",
        "alter column reference set not null, alter column reference set default ''",
        "rename column route to callee_route",
    ]
    with bed.load(writers=3) as load:
        async with bed.reading() as reader:
            await streaming(reader)
            with bed.connect() as conn:
                conn.execute("update call_state_events set reference = ''")
                conn.execute("alter table call_state_events alter reference set default ''")
                for step in steps:
                    if "not null" in step:
                        conn.execute("update call_state_events set reference = ''")
                    conn.execute(f"alter table call_state_events {step}".encode())
                    seen = load.committed
                    await until(lambda seen=seen: load.committed > seen + 20)  # type: ignore[misc]
            load.stop()
            arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert set(arrived.values()) == {1}
    assert reader.metrics.column_changes_total >= len(steps) - 2
    said = [r.__dict__ for r in caplog.records if r.message == "columns_differ"]
    assert any(each.get("added") == "site" for each in said)
    assert any("refer_to" in each.get("missing", "") for each in said)
    assert any(each.get("retyped", "").startswith("cseq") for each in said)


async def test_purges_under_load_cost_nothing(bed: Bed) -> None:
    with bed.load(writers=3) as load:
        async with bed.reading() as reader:
            await streaming(reader)
            with bed.connect() as conn:
                for _ in range(10):
                    seen = load.committed
                    await until(lambda seen=seen: load.committed > seen + 50)  # type: ignore[misc]
                    conn.execute("delete from call_state_events")
                conn.execute("vacuum call_state_events")
                conn.execute("truncate observer_state_events")
            load.stop()
            await until(lambda: reader.metrics.unacked_records == 0)
            await all_arrived(bed)
    arrived = bed.event_ids()
    assert len(arrived) == load.committed, "every committed row, and no other"
    assert set(arrived.values()) == {1}


async def test_a_table_that_was_out_of_the_publication_for_a_while(bed: Bed) -> None:
    bed.insert(10)
    async with bed.reading() as reader:
        await streaming(reader)
        await all_arrived(bed)
    with bed.connect() as conn:
        conn.execute("alter publication cdrstream drop table call_state_events")
        bed.insert(10)  # the stream will never have these
        conn.execute("alter publication cdrstream add table call_state_events")
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert reader.metrics.gaps_total == 1


async def test_a_publication_that_changes_behind_a_running_reader(bed: Bed) -> None:
    async with bed.reading(bed.settings(slot_check_seconds=0.1)) as reader:
        await streaming(reader)
        bed.insert(10)
        await all_arrived(bed)
        with bed.connect() as conn, conn.transaction():
            conn.execute("alter publication cdrstream drop table call_state_events")
            conn.execute("alter publication cdrstream add table call_state_events")
        await until(lambda: reader.metrics.gaps_total == 1)
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()


async def test_a_publication_that_was_missing_when_rows_were_written(bed: Bed) -> None:
    """The stream can never pass those rows: it looks for the publication as it was then."""
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        await all_arrived(bed)
    with bed.connect() as conn:
        conn.execute("drop publication cdrstream")
    bed.insert(10)
    with pytest.raises(errors.PublicationMissing):
        await asyncio.wait_for(run_reader(bed.settings(), asyncio.Event()), 120)
    bed.provision()
    bed.insert(10)
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()


async def test_tables_that_are_dropped_and_made_again(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        await all_arrived(bed)
    with bed.connect() as conn:
        conn.execute("drop table call_state_events, observer_state_events")
        conn.execute(TABLES)
        conn.execute("select setval('call_state_events_id_seq', 1000)")
    bed.insert(10)
    with pytest.raises(errors.PublicationMissing):
        await asyncio.wait_for(run_reader(bed.settings(), asyncio.Event()), 120)
    bed.provision()
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == set(range(1, 11)) | bed.ids()


async def test_a_publication_that_leaves_out_rows_is_refused(bed: Bed) -> None:
    with bed.connect() as conn:
        conn.execute(
            "alter publication cdrstream set table call_state_events where (id > 5),"
            " observer_state_events"
        )
    with pytest.raises(errors.PublicationMissing, match="leaves out rows"):
        await asyncio.wait_for(run_reader(bed.settings(), asyncio.Event()), 120)


async def test_a_byte_that_no_unicode_has_stops_nothing(make_bed: Callable[..., Bed]) -> None:
    bed = make_bed(encoding="WIN1252")
    with psycopg.connect(bed.dsn, autocommit=True, client_encoding="WIN1252") as conn:
        row = (
            b"insert into call_state_events (observer, event_seq, event_time, event_type, cseq,"
            b" call_id, from_url, to_url) values ('o', 1, now(), 'R', 1, 'c\x80', 'f', '\x81\xe9')"
        )
        conn.execute(row)
        async with bed.reading() as reader:
            await streaming(reader)
            conn.execute(row)
            await all_arrived(bed)
    assert [event.row["to_url"] for event in bed.events()] == ["\ufffdé"] * 2
    assert {event.key for event in bed.events()} == {"c€"}


async def test_a_transaction_of_300_000_rows(bed: Bed) -> None:
    with bed.process() as process:
        await until(lambda: bed.confirmed() > 0)
        await until(lambda: bed.end_offset() > 0)
        beats = bed.end_offset()
        bed.insert(300_000)
        seen = [0]

        def some_came() -> bool:
            seen.append(bed.end_offset() - beats)
            return seen[-1] > 1_000

        await until(some_came)
        await until(lambda: bed.end_offset() > beats + 300_000, 300)
        status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    assert int(found[1]) / 1024 < 120, "memory in MB"
    assert seen[-1] < 200_000, "the first rows do not wait for the last"


async def test_prepared_savepoints_and_rollbacks_leave_what_was_committed(bed: Bed) -> None:
    insert = (
        "insert into call_state_events (observer, event_seq, event_time, event_type, cseq, call_id,"
        " from_url, to_url) values ('o', 1, now(), 'R', 1, %s, 'f', 't')"
    )
    async with bed.reading() as reader:
        await streaming(reader)
        with bed.connect() as conn:
            with conn.transaction():
                conn.execute(insert, ("outer",))
                for n in range(70):  # more subtransactions than a backend caches
                    with conn.transaction(force_rollback=n % 2 == 0):
                        conn.execute(insert, (f"inner{n}",))
                with conn.transaction():
                    conn.execute(insert, ("deep",))
                    with conn.transaction(force_rollback=True):
                        conn.execute(insert, ("lost",))
            with conn.transaction(force_rollback=True):
                conn.execute(insert, ("lost",))
        await all_arrived(bed)
    found = {event.row["call_id"] for event in bed.events()}
    assert found == {"outer", "deep", *(f"inner{n}" for n in range(1, 70, 2))}
