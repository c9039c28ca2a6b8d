"""The sink against a real database: revisions, epochs, poison, outages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from callstate.cdr import Cdr, Provenance
from callstate.envelope import Gap
from ops.stack import Stack
from stream_app.errors import SinkRefused, SinkUnavailable
from stream_app.migrations import grant_sink
from stream_app.progress import Progress
from stream_app.sink import SWAP_LOCK_KEY, CallWrite, Sink, Written
from tests.calls import us
from tests.streaming import database, stream_stack, until

__all__ = ["stream_stack"]

TOPICS = ("events", "references")


@pytest.fixture
def dsn(stream_stack: Stack) -> Iterator[str]:
    with database(stream_stack.sink) as dsn:
        yield dsn


@pytest.fixture
def sink(dsn: str) -> Iterator[Sink]:
    sink = Sink(dsn)
    yield sink
    sink.close()


@pytest.fixture
def rows(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield lambda statement: connection.execute(statement).fetchall()


def call(call_id: str, revision: int = 3, **columns: Any) -> CallWrite:
    cdr = Cdr(
        call_id, "f", "t", "<sip:a@x>", "<sip:b@x>", us(0), us(2), us(12), "C",
        None, None, None, "sip:a@10.0.0.1", None, True, None,
    )  # fmt: skip
    return CallWrite(provenance(call_id, revision), cdr._replace(**columns))


def hidden(call_id: str, revision: int) -> CallWrite:
    return CallWrite(provenance(call_id, revision), None, "music on hold")


def provenance(call_id: str, revision: int) -> Provenance:
    return Provenance(
        call_id=call_id,
        revision=revision,
        events=({"server": "a", "event_type": "R", "note": 'quote " back \\ tab \t {}'},)
        * revision,
        servers=("a", 'b"c\\d,e'),
        offsets=(),
        missing=(),
        rule="closed by BYE",
        watermark_us=us(60),
    )


def progress(partition: int, epoch: int, position: int = 1, watermark: float = 60) -> Progress:
    positions = {TOPICS[0]: position, TOPICS[1]: 0}
    return Progress(partition, epoch, positions, us(watermark), {"events": position})


def test_a_batch_is_written_with_its_progress(sink: Sink, rows: Any) -> None:
    epochs = sink.take(TOPICS, [0, 1], "w1")
    done = sink.write(
        [call("one"), call("two"), hidden("three", 2)],
        [progress(0, epochs[0], 10), progress(1, epochs[1], 20)],
        [Gap("a", "0/1", "0/2", us(0), us(9), "slot lost")] * 2,
    )
    assert done == Written(inserted=2, hidden=1)
    assert rows("SELECT call_id, start_time::text, end_time::text FROM cdrs ORDER BY 1") == [
        ("one", "2024-03-04 09:00:00", "2024-03-04 09:00:12"),
        ("two", "2024-03-04 09:00:00", "2024-03-04 09:00:12"),
    ]
    assert rows(
        "SELECT call_id, revision, hidden_reason, servers, events->0->>'note' FROM cdr_provenance"
        " ORDER BY 1"
    )[1] == ("three", 2, "music on hold", ["a", 'b"c\\d,e'], 'quote " back \\ tab \t {}')
    assert rows(
        "SELECT topic, partition, epoch, next_offset, watermark::text, counters, holder"
        " FROM sink_progress ORDER BY 1, 2"
    )[:2] == [
        ("events", 0, 1, 10, "2024-03-04 09:01:00+00", {"events": 10}, "w1"),
        ("events", 1, 1, 20, "2024-03-04 09:01:00+00", {"events": 20}, "w1"),
    ]
    assert rows("SELECT server, from_time::text FROM cdr_gaps") == [("a", "2024-03-04 09:00:00+00")]


def test_a_lower_revision_never_overwrites_a_higher_one(sink: Sink, rows: Any) -> None:
    assert sink.write([call("c", 3, callee_aor="new")], []).inserted == 1
    [(row_id,)] = rows("SELECT id FROM cdrs")
    newer = Written(stale=1, superseded=frozenset({"c"}))
    assert sink.write([call("c", 2, callee_aor="old")], []) == newer
    assert rows("SELECT id, callee_aor FROM cdrs") == [(row_id, "new")]
    assert sink.write([call("c", 3, callee_aor="new")], []) == Written(stale=1), "nothing new"
    assert sink.write([call("c", 4, callee_aor="newer")], []) == Written(revised=1)
    assert rows("SELECT id, callee_aor FROM cdrs") == [(row_id, "newer")], "the row's id stays"


def test_what_a_replay_wrote_gives_way_only_to_more_knowledge(sink: Sink, rows: Any) -> None:
    sink.write([call("c", 3)], [])
    rows("UPDATE cdrs SET callee_aor = 'rebuilt' RETURNING 1")
    rows("UPDATE cdr_provenance SET replay_id = 7, rule = 'rebuilt' RETURNING 1")
    newer = Written(stale=1, superseded=frozenset({"c"}))
    assert sink.write([call("c", 3, callee_aor="live")], []) == newer
    assert rows("SELECT callee_aor FROM cdrs") == [("rebuilt",)]
    assert sink.write([call("c", 4, callee_aor="live")], []) == Written(revised=1)
    assert rows("SELECT callee_aor, replay_id FROM cdrs JOIN cdr_provenance USING (call_id)") == [
        ("live", None)
    ]


def test_a_batch_waits_while_many_cdrs_are_swapped(sink: Sink, dsn: str, rows: Any) -> None:
    with psycopg.connect(dsn) as swapper:
        swapper.execute("SELECT pg_advisory_xact_lock(%s)", (SWAP_LOCK_KEY,))
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(sink.write, [call("c")], [])
            until(
                lambda: rows(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
                ),
                "the batch waits",
            )
            assert not written.done()
            swapper.commit()
            assert written.result(10).inserted == 1


def test_the_guard_holds_for_hidden_calls(sink: Sink, rows: Any) -> None:
    sink.write([call("c", 2)], [])
    assert sink.write([hidden("c", 3)], []).hidden == 1
    assert rows("SELECT call_id FROM cdrs") == []
    done = sink.write([call("c", 2)], [])
    assert (done.stale, done.inserted) == (1, 0), "it does not come back"
    assert rows("SELECT call_id FROM cdrs") == []
    assert sink.write([call("c", 4)], []).inserted == 1
    assert rows("SELECT hidden_reason FROM cdr_provenance") == [(None,)]


def test_a_worker_whose_epoch_is_over_writes_nothing(sink: Sink, dsn: str, rows: Any) -> None:
    old = sink.take(TOPICS, [0, 1], "w1")
    other = Sink(dsn)
    new = other.take(TOPICS, [1], "w2")
    assert new == {1: 2}
    assert sink.epochs("events") == {0: 1, 1: 2}
    parts = [progress(0, old[0], 5), progress(1, old[1], 5)]
    assert sink.write([call("zombie")], parts) == Written(fenced=frozenset({1}))
    assert rows("SELECT count(*) FROM cdrs") == [(0,)]
    assert rows("SELECT sum(next_offset) FROM sink_progress") == [(0,)]
    assert sink.write([call("fine")], parts[:1]).inserted == 1
    assert other.write([call("taken")], [progress(1, new[1], 9)]).inserted == 1
    other.close()


def test_taking_waits_for_a_transaction_and_then_fences(sink: Sink, dsn: str, rows: Any) -> None:
    """Whoever takes a partition sees all that was committed before, and nothing comes after."""
    from concurrent.futures import ThreadPoolExecutor

    epochs = sink.take(TOPICS, [0], "w1")
    with psycopg.connect(dsn) as blocker, ThreadPoolExecutor(1) as pool:
        blocker.execute("SELECT 1 FROM sink_progress WHERE partition = 0 FOR UPDATE")
        other = Sink(dsn)
        taking = pool.submit(other.take, TOPICS, [0], "w2")
        assert not taking.done()
        blocker.rollback()
        assert taking.result(10) == {0: 2}
        other.close()
    assert sink.write([], [progress(0, epochs[0])]).fenced == {0}


def test_the_watermark_never_retreats(sink: Sink, rows: Any) -> None:
    epochs = sink.take(TOPICS, [0], "w1")
    sink.write([], [progress(0, epochs[0], 10, watermark=100)])
    sink.write([], [progress(0, epochs[0], 5, watermark=50)])
    assert rows(
        "SELECT next_offset, watermark::text FROM sink_progress WHERE topic = 'events'"
    ) == [(5, "2024-03-04 09:01:40+00")], "the position follows a topic that was made anew"


def test_a_gap_of_strangers_keeps_nobody(sink: Sink, rows: Any) -> None:
    """What the database refuses in it would be tried again for ever, with all calls beside it."""
    epochs = sink.take(TOPICS, [0], "w1")
    name = "".join(map(chr, range(0x4E00, 0x4E00 + 5_000)))
    gaps = [Gap("a\x00b", "\x00", "0/2", 1, 2, "\x00"), Gap(name, name, name, 1, 2, name)]
    assert not sink.write([], [progress(0, epochs[0])], gaps).fenced
    assert rows("SELECT length(server), length(reason) FROM cdr_gaps ORDER BY 1") == [
        (3, 1),
        (200, 5_000),
    ]


@pytest.mark.parametrize(
    "columns",
    [
        {"failure_status": 99_999},
        {"to_tag": "nul \x00 inside"},
        {"from_tag": "lone \ud800 surrogate"},
        {"callee_aor": None},
    ],
    ids=["out of range", "NUL", "surrogate", "NOT NULL"],
)
def test_one_poisonous_call_is_left_out_alone(
    sink: Sink, rows: Any, columns: dict[str, Any]
) -> None:
    epochs = sink.take(TOPICS, [0], "w1")
    calls = [call(f"good-{n:02}") for n in range(20)]
    calls.insert(13, call("bad", **columns))
    done = sink.write(calls, [progress(0, epochs[0], 7)])
    assert done.inserted == 20
    assert [poison.call.call_id for poison in done.poison] == ["bad"]
    assert done.poison[0].reason
    assert rows("SELECT count(*), count(*) FILTER (WHERE call_id = 'bad') FROM cdrs") == [(20, 0)]
    assert rows("SELECT count(*) FROM cdr_provenance") == [(20,)]
    assert rows("SELECT max(next_offset) FROM sink_progress") == [(7,)]


def test_a_call_id_that_no_index_can_hold_is_poison(sink: Sink) -> None:
    monster = "".join(chr(0x100 + n * 7 % 5_000) for n in range(6_000))
    done = sink.write([call("a"), call(monster), call("b")], [])
    assert (done.inserted, len(done.poison)) == (2, 1)


def test_outage_and_missing_rights_are_told_apart(sink: Sink, dsn: str, rows: Any) -> None:
    sink.write([call("before")], [])
    rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'cdrstream%' AND datname = current_database()"
    )
    with pytest.raises(SinkUnavailable):
        sink.write([call("during")], [])
    assert sink.write([call("after")], []).inserted == 1, "the next call connects again"
    with psycopg.connect(dsn, autocommit=True) as connection:
        role = f"weak_{connection.info.dbname}"
        name = sql.Identifier(role)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        weak = Sink(psycopg.conninfo.make_conninfo(dsn, user=role))
        try:
            with pytest.raises(SinkRefused, match="permission denied"):
                weak.write([call("weak")], [])
            grant_sink(connection, role)
            epochs = weak.take(TOPICS, [0], "weak")
            done = weak.write([call("weak"), hidden("x", 1)], [progress(0, epochs[0])])
            assert (done.inserted, done.hidden) == (1, 1), "the sink's rights are enough"
        finally:
            weak.close()
            connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))
    with pytest.raises(SinkUnavailable):
        Sink("host=127.0.0.1 port=1 dbname=nowhere").write([call("nowhere")], [])


def test_shadow_schema_leaves_the_real_table_alone(dsn: str, rows: Any) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE SCHEMA shadow")
        for table in ("cdrs", "cdr_provenance", "sink_progress", "cdr_gaps", "cdr_replays"):
            connection.execute(
                sql.SQL("CREATE TABLE shadow.{0} (LIKE public.{0} INCLUDING ALL)").format(
                    sql.Identifier(table)
                )
            )
    shadow = Sink(dsn, schema="shadow")
    assert shadow.write([call("c")], []).inserted == 1
    shadow.close()
    assert rows("SELECT (SELECT count(*) FROM cdrs), (SELECT count(*) FROM shadow.cdrs)") == [
        (0, 1)
    ]


def of_rows(write: CallWrite, *ids: int, tag: str = "f", uses: tuple[str, ...] = ()) -> CallWrite:
    """The same call, told of these rows."""
    events = tuple(
        {"server": "a", "id": number, "event_type": "R", "from_tag": tag} for number in ids
    )
    basis = {"uses": list(uses)} if uses else {}
    why = write.provenance._replace(events=events, revision=len(ids), basis=basis)
    cdr = None if write.cdr is None else write.cdr._replace(from_tag=tag)
    return CallWrite(why, cdr, write.hidden_reason)


TOLD = "SELECT call_id, revision, basis->'uses' FROM cdr_provenance ORDER BY 1"


@pytest.mark.parametrize("ids", [(7,), (7, 8, 9, 10, 11)])
def test_another_call_of_a_call_id_neither_overwrites_nor_is_lost(
    sink: Sink, rows: Any, ids: tuple[int, ...]
) -> None:
    sink.write([of_rows(call("one"), 1, 2, 3)], [])
    later = of_rows(call("one"), *ids, tag="g")
    done = sink.write([later, of_rows(call("two"), 4)], [])
    assert (done.inserted, done.stale) == (2, 0)
    assert [write.call_id for write in done.apart.values()] == ["one;from-tag=g"]
    expected = [
        ("one", 3, ["one;from-tag=g"]),
        ("one;from-tag=g", len(ids), None),
        ("two", 1, None),
    ]
    assert rows(TOLD) == expected
    assert sink.write([later], []).stale == 1, "the same again changes nothing"
    assert rows(TOLD) == expected
    assert rows("SELECT call_id, from_tag FROM cdrs ORDER BY 1") == [
        ("one", "f"), ("one;from-tag=g", "g"), ("two", "f"),
    ]  # fmt: skip
    third = of_rows(call("one"), 20, 21, tag="g")
    written = sink.write([third], []).apart["one"]
    assert written.call_id == "one;from-tag=g;row=a/20"
    assert rows("SELECT count(*) FROM cdrs") == [(4,)]


def test_who_knows_both_calls_of_a_call_id_may_tell_them_otherwise(sink: Sink, rows: Any) -> None:
    sink.write([of_rows(call("one"), 7, 8, tag="g")], [])
    earlier = of_rows(call("one"), 1, 2, 3, tag="f", uses=("one;from-tag=g",))
    sink.write([earlier, of_rows(call("one;from-tag=g"), 7, 8, tag="g")], [])
    assert rows("SELECT call_id, from_tag FROM cdrs ORDER BY 1") == [
        ("one", "f"), ("one;from-tag=g", "g"),
    ]  # fmt: skip
