"""The reader on real servers: what is written arrives, once, as it was written."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.pq.abc import PGresult

from callstate.envelope import event_message, read_message
from callstate.events import CallEvent, Clock
from callstate.topics import dead_letter_topic
from cdc.lsn import parse_lsn
from cdc.settings import StartMode
from cdc.snapshot import Backfill
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


async def test_rows_from_before_and_after_the_start_arrive_once(bed: Bed) -> None:
    bed.insert(5_000)
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(100)
        arrived = await all_arrived(bed)
    assert set(arrived.values()) == {1}
    assert reader.metrics.backfill_rows_total == 5_000
    late = [event.value["clock"].get("late", False) for event in bed.events()]
    assert late.count(True) == 5_000


HARD = {
    "observer": "proxy:5060",
    "event_seq": 9_223_372_036_854_775_807,
    "event_time": "2024-03-04 09:00:00.431",
    "event_type": "F",
    "cseq": -5,
    "call_id": "ünï-☎@host",
    "from_tag": "",
    "to_tag": None,
    "from_url": '"Bob \\ \t\x01 \u202e" <sip:x>;tag=1' + "é" * 4_000,
    "to_url": "t" * 70_000,
    "contact": "tnnut",
    "refer_to": "n",
    "referred_by": "t",
    "failure_status": 503,
    "failure_reason": "",
    "request_uri": None,
    "reference": None,
    "caller_internal": False,
    "callee_route": None,
    "branch_id": "n" * 29_700,
    "via_count": 0,
}


def _insert(conn: psycopg.Connection[Any], row: dict[str, Any]) -> int:
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    query = f"insert into call_state_events ({names}) values ({marks}) returning id"
    found = conn.execute(query, list(row.values())).fetchone()
    assert found is not None
    return int(found[0])


async def test_every_value_is_as_it_was_written(bed: Bed) -> None:
    shapes: list[dict[str, Any]] = [
        HARD,
        {**HARD, "from_url": "plain", "to_url": "plain", "call_id": "ascii"},
        {**HARD, "from_url": "plain", "to_url": "", "call_id": "x", "caller_internal": None},
        {**HARD, "event_time": "infinity"},
        {**HARD, "event_time": "0044-03-15 12:00:00 BC"},
        {**HARD, "event_time": "12024-03-15 12:00:00"},
    ]
    with bed.connect() as conn:
        before = [_insert(conn, shape) for shape in shapes]  # read by the backfill
        async with bed.reading() as reader:
            await streaming(reader)
            after = [_insert(conn, shape) for shape in shapes * 3]  # ... and from the stream
            await all_arrived(bed)
    events = {event.row["id"]: event for event in bed.events()}
    times = ["2024-03-04T09:00:00.431Z"] * 3
    times += ["infinity", "0044-03-15 12:00:00 BC", "12024-03-15 12:00:00"]
    for n, row in enumerate(before + after):
        shape, event = shapes[n % len(shapes)], events[n + 1]
        expected = {"id": n + 1, **shape, "event_time": times[n % len(shapes)]}
        assert event.row == expected
        assert event.key == shape["call_id"]
        assert row == n + 1
        if n >= len(before):
            parse_lsn(event.value["lsn"])
            rebuilt = event_message(
                bed.name,
                event.value["lsn"],
                event.value["commit_time"],
                Clock(False, 0, 0),
                expected,
            )
            assert event.value == rebuilt
        record = read_message("event", event.value)
        assert isinstance(record, CallEvent) == (n % len(shapes) < 3)


async def test_columns_that_change_inside_a_transaction(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        with bed.connect() as conn, conn.transaction():
            _insert(conn, {**HARD, "to_url": "1"})
            conn.execute(
                "alter table call_state_events add column score float8, add column at timestamptz"
            )
            _insert(conn, {**HARD, "to_url": "2", "score": 1.5, "at": "2024-01-01 12:00+02"})
            conn.execute("alter table call_state_events rename column branch_id to branch")
            conn.execute("alter table call_state_events drop column contact")
            conn.execute("alter table call_state_events alter column cseq type text")
            last = {**HARD, "to_url": "3", "cseq": "7", "branch": "b", "score": "NaN"}
            _insert(conn, {k: v for k, v in last.items() if k not in ("branch_id", "contact")})
        await all_arrived(bed)
    rows = {event.row["id"]: event.row for event in bed.events()}
    assert "score" not in rows[1]
    assert (rows[2]["score"], rows[2]["at"]) == (1.5, "2024-01-01T10:00:00Z")
    assert (rows[3]["branch"], rows[3]["cseq"], rows[3]["score"]) == ("b", "7", "NaN")
    assert "contact" not in rows[3]


async def test_backfill_under_writers_has_no_gap_and_no_overlap(bed: Bed) -> None:
    bed.insert(3_000)
    with bed.load(writers=3) as load:
        await until(lambda: load.committed > 200)
        async with bed.reading(bed.settings(backfill_rows=200)) as reader:
            await streaming(reader)
            seen = load.committed
            await until(lambda: load.committed > seen + 300)
            load.stop()
            await until(lambda: reader.metrics.unacked_records == 0)
            arrived = await all_arrived(bed)
    assert set(arrived.values()) == {1}
    assert set(arrived) == bed.ids()


async def test_rows_written_while_the_reader_is_down_arrive_once(bed: Bed) -> None:
    for round_ in range(3):
        bed.insert(500)
        async with bed.reading() as reader:
            await streaming(reader)
            bed.insert(50)
            arrived = await all_arrived(bed)
        assert set(arrived.values()) == {1}
        assert reader.metrics.backfill_rows_total == (500 if round_ == 0 else 0)


async def test_only_what_is_committed_arrives(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        with bed.connect() as conn:
            with conn.transaction(force_rollback=True):
                conn.execute(
                    "insert into observer_state_events values (1, 'o', 1, now(), 101, 'm')"
                )
            with conn.transaction():
                _insert(conn, {**HARD, "to_url": "kept"})
                with conn.transaction(force_rollback=True):
                    _insert(conn, {**HARD, "to_url": "lost"})
            conn.execute("update call_state_events set to_url = 'changed'")
            conn.execute("delete from call_state_events")
            kept = _insert(conn, {**HARD, "to_url": "kept"})
            conn.execute("insert into observer_state_events values (2, 'o', 1, now(), 101, 'm')")
        await until(lambda: kept in bed.event_ids())
        observers = bed.settings().topics.observers
        await until(lambda: bed.records(observers))
    assert [event.row["to_url"] for event in bed.events()] == ["kept", "kept"]
    (record,) = bed.records(observers)
    assert (record.key, record.kind, record.row["status"]) == (bed.name, "event", 101)


async def test_a_large_transaction(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(40_000)
        arrived = await all_arrived(bed)
        await until(lambda: reader.metrics.unacked_records == 0)
    assert set(arrived.values()) == {1}
    assert len({event.value["lsn"] for event in bed.events()}) == 1


async def test_start_from_now_leaves_out_what_is_there(bed: Bed) -> None:
    bed.insert(10)
    async with bed.reading(bed.settings(start_mode=StartMode.NOW)) as reader:
        await streaming(reader)
        bed.insert(5)
        await until(lambda: len(bed.event_ids()) == 5)
    assert set(bed.event_ids()) == set(range(11, 16))


async def test_heartbeats_on_an_idle_server_advance_in_every_partition(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)

        def progress() -> list[list[int]]:
            beats = [record for record in bed.records() if record.kind == "heartbeat"]
            return [[b.value["progress_us"] for b in beats if b.partition == p] for p in range(3)]

        await until(lambda: all(len(times) >= 5 for times in progress()))
        for times in progress():
            assert times == sorted(set(times))
        # behind a segment switch the insert position stands past a page header for good
        with bed.connect() as conn:
            conn.execute("create table other (x text)")
            conn.execute("select pg_switch_wal()")
            (now_us,) = conn.execute(
                "select (extract(epoch from clock_timestamp()) * 1000000)::int8"
            ).fetchone() or (0,)
        await until(lambda: all(times[-1] > now_us for times in progress()))


async def test_the_slot_advances_when_only_other_tables_write(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        with bed.connect() as conn:
            conn.execute("create table other (x text)")
            conn.execute("insert into other select repeat('x', 500) from generate_series(1, 2000)")
            (end,) = conn.execute("select (pg_current_wal_lsn() - '0/0')::int8").fetchone() or (0,)
        await until(lambda: bed.confirmed() >= end)
    assert not bed.events()


@pytest.mark.parametrize(("size", "whole"), [(3_000_000, True), (9_000_000, False)])
async def test_a_row_that_kafka_refuses_goes_to_the_dead_letters(
    bed: Bed, size: int, whole: bool
) -> None:
    noise = random.Random(size).randbytes(size // 2).hex()  # a text that lz4 cannot make small
    async with bed.reading() as reader:
        await streaming(reader)
        with bed.connect() as conn, conn.transaction():
            _insert(conn, {**HARD, "to_url": "before"})
            _insert(conn, {**HARD, "to_url": noise, "call_id": "huge"})
            _insert(conn, {**HARD, "to_url": "after"})
        await until(lambda: len(bed.events()) == 2)
        dead = dead_letter_topic(bed.settings().topics.events)
        await until(lambda: bed.records(dead))
        await until(lambda: reader.metrics.unacked_records == 0)
    assert sorted(event.row["to_url"] for event in bed.events()) == ["after", "before"]
    (letter,) = bed.records(dead)
    assert letter.key == "huge"
    assert letter.headers["server"].decode() == bed.name
    assert b"large" in letter.headers["reason"].lower()
    assert letter.raw.startswith(b'{"v":1,"server"')
    if whole:
        assert letter.row["to_url"] == noise
    else:
        assert int(letter.headers["truncated"]) > size


async def test_a_backfill_that_was_cut_goes_on_where_it_was(bed: Bed) -> None:
    bed.insert(100_000)
    # Each store waits for an acknowledgement, and they come in order: by the twelfth some are in.
    amid = ["cdc.position_keeper:PositionKeeper.put", "before", 12]
    with bed.process(backfill_rows=50, position_seconds=0.0, crash=amid) as process:
        assert await asyncio.to_thread(process.wait, 120) == -signal.SIGKILL
    done = bed.records(bed.settings().topics.positions)[-1].value
    assert done["backfill_table"] == "call_state_events"
    assert done["backfill_after"]
    bed.insert(100)
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert reader.metrics.backfill_rows_total == 100_100 - done["backfill_after"]
    assert set(arrived) == bed.ids()


async def test_a_slot_that_was_dropped_leaves_a_gap_record_and_loses_nothing(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(20)
        await all_arrived(bed)
        await until(lambda: bed.confirmed() > 0 and reader.metrics.unacked_records == 0)
    with bed.connect() as conn:
        conn.execute("select pg_drop_replication_slot(%s)", (bed.settings().slot_name,))
    bed.insert(20)
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    gaps = [record for record in bed.records() if record.kind == "gap"]
    assert sorted(record.partition for record in gaps) == [0, 1, 2]
    gap = read_message("gap", gaps[0].value)
    assert "dropped" in getattr(gap, "reason", "")
    assert gaps[0].value["from_us"] < gaps[0].value["to_us"]


async def test_a_slot_that_was_made_anew_behind_our_back_is_noticed(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(20)
        await all_arrived(bed)
    slot = bed.settings().slot_name
    with bed.connect() as conn:
        conn.execute("select pg_drop_replication_slot(%s)", (slot,))
        bed.insert(20)
        conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    async with bed.reading() as reader:
        await streaming(reader)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert reader.metrics.gaps_total == 1


async def test_a_slot_that_was_provisioned_beforehand(bed: Bed) -> None:
    bed.insert(10)
    with bed.connect() as conn:
        conn.execute(
            "select pg_create_logical_replication_slot(%s, 'pgoutput')", (bed.settings().slot_name,)
        )
    bed.insert(10)
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(10)
        arrived = await all_arrived(bed)
    assert set(arrived) == bed.ids()
    assert not [record for record in bed.records() if record.kind == "gap"]


async def test_a_standby_waits_and_takes_over(bed: Bed) -> None:
    with bed.process() as first:
        await until(lambda: bed.confirmed() > 0)
        async with bed.reading() as second:
            await until(lambda: second.state == "standby")
            bed.insert(50)
            await all_arrived(bed)
            own = f"standby:{bed.name}:"
            await until(
                lambda: any(
                    key.startswith(own) and said.get("state") == "standby"
                    for key, said in told(bed).items()
                )
            )
            of_the_server = f"reader:{bed.name}"
            await until(lambda: told(bed).get(of_the_server, {}).get("state") == "streaming")
            assert told(bed)[of_the_server]["pid"] == first.pid
            first.kill()
            await streaming(second)
            bed.insert(50)
            arrived = await all_arrived(bed)
            # ... and speaks for the server from now on, and no more for itself
            await until(lambda: told(bed)[of_the_server]["pid"] == os.getpid())
            await until(
                lambda: not [s for key, s in told(bed).items() if key.startswith(own) and s]
            )
    assert set(arrived) == bed.ids()


def told(bed: Bed) -> dict[str, dict[str, Any]]:
    """The newest status of each key; empty where it was taken back."""
    return {record.key: record.value for record in bed.records(bed.settings().topics.status)}


async def test_a_second_reader_does_not_backfill_beside_the_first(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.insert(3_000)
    goes_on, fetch = asyncio.Event(), Backfill._fetch

    async def held_up(self: Backfill) -> PGresult:
        await goes_on.wait()
        return await fetch(self)

    monkeypatch.setattr(Backfill, "_fetch", held_up)
    async with bed.reading(bed.settings(backfill_rows=10)) as first:
        await until(lambda: first.state == "backfill")
        async with bed.reading() as second:
            await until(lambda: second.state == "standby")
            assert first.state == "backfill"
            goes_on.set()
            await streaming(first)
            assert second.state in ("standby", "starting")  # it looks again and again
            bed.insert(10)
            assert set((await all_arrived(bed)).values()) == {1}
        assert second.metrics.backfill_rows_total == 0


async def test_a_role_with_the_least_rights_is_enough(bed: Bed) -> None:
    dsn = bed.stack["a"].dsn_for(bed.name, user=f"{bed.name}_reader")
    settings = bed.settings(dsn=dsn)
    assert bed.provision(settings)
    assert bed.provision(settings) == []
    bed.insert(10)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(10)
        assert set((await all_arrived(bed)).values()) == {1}


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_databases_of_other_encodings(make_bed: Callable[..., Bed], encoding: str) -> None:
    bed = make_bed(encoding=encoding)
    row = {**HARD, "call_id": "c", "from_url": "f", "to_url": "plain", "branch_id": "b"}
    with psycopg.connect(bed.dsn, autocommit=True, client_encoding=encoding) as conn:
        async with bed.reading() as reader:
            await streaming(reader)
            for url in (b"caf\xe9", b"plain"):
                shown = row | {"to_url": "X"}
                query = "insert into call_state_events ({}) values ({})".format(
                    ", ".join(shown), ", ".join(["%s"] * len(shown))
                )
                conn.execute(query, list(shown.values()))
                conn.execute(b"select 1")
                conn.execute(
                    b"insert into call_state_events (observer, event_seq, event_time, event_type,"
                    b" cseq, call_id, from_url, to_url) values ('o', 1, now(), 'R', 1, 'c', 'f', '"
                    + url
                    + b"')"
                )
            await all_arrived(bed)
    urls = [event.row["to_url"] for event in bed.events()]
    assert urls == ["X", "caf\ufffd" if encoding == "SQL_ASCII" else "café", "X", "plain"]


async def test_what_a_reader_says_of_itself(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(3)

        def said() -> dict[str, Any]:
            return told(bed).get(f"reader:{bed.name}", {})

        await until(lambda: said().get("rows_published_total") == 3 and said()["progress_us"])
    assert said()["state"] == "stopped"
    assert said()["role"] == "reader"
    assert said()["clock_offset_us"] == 0
