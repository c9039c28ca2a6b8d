"""One partition without Kafka and PostgreSQL: positions, cuts, bad records, effects as records."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import orjson
import pytest

from callstate.config import ResolutionConfig
from callstate.effects import AnswerReference, AskReference, DeadLetter
from callstate.envelope import Gap as GapRecord
from callstate.envelope import event_message, gap_message, heartbeat_message
from callstate.events import CallEvent
from callstate.processor import PartitionProcessor
from stream_app.changelog import PARTITION_KEY
from stream_app.errors import StreamAppError
from stream_app.log_ends import FirstRecord
from stream_app.log_ends import Log as BrokerLog
from stream_app.partition import BAD_RECORDS_MAX, PartitionWorker
from stream_app.settings import WorkerSettings
from tests.calls import us
from tests.streaming import CLOCK, call_rows

SETTINGS = WorkerSettings(
    bootstrap_servers="nowhere:1",
    sink_dsn="nowhere",
    resolution=ResolutionConfig(servers=("a",)),
    worker_id="w",
)
EVENTS, REFERENCES = SETTINGS.events_topic, SETTINGS.references_topic

Fetched = namedtuple("Fetched", "offset key value headers")


class Log:
    """Log with rising offsets."""

    def __init__(self) -> None:
        self.records: list[Fetched] = []

    def add(self, kind: str, message: object, key: str = "k") -> Fetched:
        value = message if isinstance(message, bytes) else orjson.dumps(message)
        headers = [("kind", kind.encode()), ("server", b"a")]
        self.records.append(Fetched(len(self.records), key.encode(), value, headers))
        return self.records[-1]

    def call(self, call_id: str, at: float) -> None:
        for row in call_rows(call_id, at):
            self.add("event", event_message("a", "0/1", None, CLOCK, row), call_id)

    def beat(self, at: float) -> None:
        self.add("heartbeat", heartbeat_message("a", us(at), "0/1", CLOCK))


@pytest.fixture
def log() -> Log:
    log = Log()
    log.call("one", 0)
    log.call("two", 5)
    log.beat(100)
    return log


def worker(**more: Any) -> PartitionWorker:
    return PartitionWorker(SETTINGS, 0, 7, {}, **more)


def written(commit: Any) -> list[str]:
    return sorted(call.call_id for call in commit.calls)


def test_a_cut_holds_all_that_came_of_the_records(log: Log) -> None:
    part = worker()
    part.feed(EVENTS, log.records, "token")
    assert part.has_calls_to_write
    assert part.pending_records == 7
    commit = part.cut()
    assert commit is not None
    assert written(commit) == ["one", "two"]
    assert commit.tokens == ("token",)
    assert commit.progress.positions == {EVENTS: 7, REFERENCES: 0}
    assert commit.progress.watermark_us == us(95)
    assert commit.progress.counters["cdrs"] == 2
    assert {record.key for record in commit.changelog} == {b"one", b"two", PARTITION_KEY}
    assert commit.changelog[-1].key == PARTITION_KEY, "the partition's own state comes last"
    assert all(record.partition == 0 for record in commit.changelog)
    assert part.cut() is None
    assert part.pending_records == 0


def test_what_was_fed_is_not_fed_again(log: Log) -> None:
    part = worker()
    part.feed(EVENTS, log.records[:5])
    part.feed(EVENTS, log.records[2:])
    part.feed(EVENTS, log.records)
    commit = part.cut()
    assert commit is not None
    assert commit.progress.counters["events"] == 6
    assert commit.progress.counters["duplicates"] == 0


def test_any_cut_and_restart_gives_the_same(log: Log) -> None:
    whole = worker()
    whole.feed(EVENTS, log.records)
    expected = whole.cut()
    assert expected is not None
    for cut_at in range(1, len(log.records)):
        first = worker()
        first.feed(EVENTS, log.records[:cut_at])
        before = first.cut()
        assert before is not None
        state = before.changelog[-1].value
        assert state is not None
        table = {
            (record.key or b"").decode(): record.value[9:]
            for record in before.changelog[:-1]
            if record.value is not None
        }
        second = PartitionWorker(SETTINGS, 0, 8, table, state[9:])
        assert second.positions[EVENTS] == cut_at
        second.feed(EVENTS, log.records)
        after = second.cut()
        assert after is not None
        calls = {call.call_id: call for call in (*before.calls, *after.calls)}
        assert [calls[call.call_id] for call in expected.calls] == list(expected.calls)


def test_unreadable_records_become_dead_letters_with_their_bytes(log: Log) -> None:
    log.add("event", b"\xff no json")
    log.add("event", b'{"v": 1, "server": "a", "row": {"call_id": 7}}')
    log.add("nonsense", {"v": 1})
    log.records.append(Fetched(len(log.records), b"k", None, []))
    part = worker()
    part.feed(EVENTS, log.records)
    commit = part.cut()
    assert commit is not None
    assert written(commit) == ["one", "two"]
    letters = commit.side_records
    assert [record.topic for record in letters] == [SETTINGS.dead_letter_topic] * 4
    assert letters[0].value == b"\xff no json"
    assert letters[1].value == b'{"v": 1, "server": "a", "row": {"call_id": 7}}'


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        pytest.param([("kind", None)], b"{}", id="a header without a value"),
        pytest.param([("other", None), ("kind", b"\xff")], b"{}", id="foreign headers"),
        pytest.param(
            [("kind", b"event")],
            b'{"v":1,"server":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b',"row":{}}',
            id="nested without end",
        ),
    ],
)
def test_a_record_of_strangers_stops_nothing(log: Log, headers: Any, value: bytes) -> None:
    """Reading comes before the processor: what failed there ended the worker at each start."""
    log.records.append(Fetched(len(log.records), None, value, headers))
    log.beat(200)
    one = worker()
    one.feed(EVENTS, log.records)
    commit = one.cut()
    assert commit is not None
    assert written(commit) == ["one", "two"]
    (letter,) = commit.side_records
    assert letter.topic == SETTINGS.dead_letter_topic
    assert letter.value == value


def told_state(records: list[Any]) -> bytes:
    """A partition's state after these records, of a topic with the identity `x`."""
    one = worker(logs={EVENTS: BrokerLog("x", 1_000), REFERENCES: BrokerLog("y", 1_000)})
    one.feed(EVENTS, records)
    commit = one.cut()
    assert commit is not None
    (state,) = (r.value for r in commit.changelog if r.key == PARTITION_KEY)
    assert state is not None
    return state[9:]


def test_records_that_were_deleted_unread_are_told_as_a_gap(log: Log) -> None:
    read, later = log.records[:7], Log()
    later.records += log.records
    later.call("three", 10)
    later.beat(200)
    one = worker(
        state=told_state(read), logs={EVENTS: BrokerLog("x", 11), REFERENCES: BrokerLog("y", 0)}
    )
    one.pass_over(EVENTS, 7, FirstRecord(8, deleted=True))
    one.feed(EVENTS, later.records[8:])  # the record 7 is gone
    commit = one.cut()
    assert commit is not None
    (gap,) = commit.gaps
    assert gap[:3] == (f"{EVENTS}:0", "7", "8")
    assert (gap.from_us, gap.to_us) == (us(95), us(200))
    one.feed(EVENTS, later.records[8:])
    again = one.cut()
    assert again is None or not again.gaps, "what comes twice is no hole"


def test_where_a_log_holds_nothing_nothing_was_lost(log: Log) -> None:
    one = worker(state=told_state(log.records))
    assert one.next_offset(EVENTS) == 7
    one.pass_over(EVENTS, 7, FirstRecord(9, deleted=False))  # markers of a transaction
    assert one.next_offset(EVENTS) == 9
    assert one.next_offset(REFERENCES) == 0
    later = Log()
    later.records += [*log.records, log.records[0], log.records[0]]
    later.call("three", 110)
    later.beat(200)
    one.feed(EVENTS, later.records[9:])
    commit = one.cut()
    assert commit is not None
    assert written(commit) == ["three"]
    assert not commit.gaps
    assert one.next_offset(EVENTS) == 13


@pytest.mark.parametrize(
    ("topic_id", "end"),
    [
        pytest.param("z", 1_000, id="another topic, longer by now"),
        pytest.param("", 5, id="a shorter log, of a broker that gives no identities"),
        pytest.param("x", 5, id="a log that has lost its end"),
    ],
)
def test_a_log_that_is_another_one_is_read_from_its_beginning(
    log: Log, topic_id: str, end: int
) -> None:
    state = told_state(log.records)
    fresh = Log()
    fresh.call("three", 110)
    fresh.beat(200)
    one = worker(
        state=state, logs={EVENTS: BrokerLog(topic_id, end), REFERENCES: BrokerLog("y", 0)}
    )
    assert dict(one.made_anew) == {EVENTS: 7}
    one.feed(EVENTS, fresh.records)
    commit = one.cut()
    assert commit is not None
    assert written(commit) == ["three"]
    assert [gap.from_us for gap in commit.gaps] == [us(95)]
    assert commit.progress.positions[EVENTS] == 4


def test_a_log_that_is_as_it_was_left_is_read_on(log: Log) -> None:
    state = told_state(log.records)
    for logs in (
        {},
        {EVENTS: BrokerLog("x", 7)},
        {EVENTS: BrokerLog("", 7)},
        {EVENTS: BrokerLog("x", 70)},
    ):
        one = worker(state=state, logs=logs)
        assert not one.made_anew
        assert one.positions[EVENTS] == 7
    older = orjson.loads(state)
    del older["topics"]  # as older versions wrote it
    one = worker(state=orjson.dumps(older), logs={EVENTS: BrokerLog("z", 7)})
    assert one.positions[EVENTS] == 7


def test_gaps_go_to_the_sink_once(log: Log) -> None:
    gap = GapRecord("a", "0/1", "0/2", us(0), us(1), "slot lost")
    log.add("gap", gap_message(gap))
    log.add("gap", gap_message(gap))
    part = worker()
    part.feed(EVENTS, log.records)
    commit = part.cut()
    assert commit is not None
    assert commit.gaps == (gap,)


class Wrapped:
    """A processor behind another `feed`; not a subclass, for a compiled one has none."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.door = PartitionProcessor(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.door, name)


class Fragile(Wrapped):
    """Fails on events of one call, after it has begun to work on them."""

    bad: str = "two"

    def feed(self, records: Any) -> Any:
        effects = self.door.feed(records)
        if any(isinstance(record, CallEvent) and record.call_id == self.bad for record in records):
            raise RuntimeError("a bug")
        return effects


def test_a_record_that_breaks_the_processor_is_set_aside_alone(log: Log) -> None:
    part = worker(make_processor=Fragile)
    part.feed(EVENTS, log.records[:3], "first")
    part.feed(EVENTS, log.records[3:], "second")
    commit = part.cut()
    assert commit is not None
    assert written(commit) == ["one"]
    assert commit.tokens == ("first", "second")
    assert commit.progress.positions[EVENTS] == len(log.records)
    letters = commit.side_records
    assert [record.value for record in letters] == [record.value for record in log.records[3:6]]
    assert b"the program failed" in dict(letters[0].headers or [])["reason"]  # type: ignore[operator]
    log.call("three", 200)
    log.beat(300)
    part.feed(EVENTS, log.records[7:])
    commit = part.cut()
    assert commit is not None
    assert written(commit) == ["three"]


def test_a_processor_that_always_fails_ends_the_worker() -> None:
    log = Log()
    for n in range(BAD_RECORDS_MAX):
        log.call("two", n)
    with pytest.raises(StreamAppError, match="the processor fails: RuntimeError: a bug"):
        worker(make_processor=Fragile).feed(EVENTS, log.records)


class Asking(Wrapped):
    def feed(self, records: Any) -> Any:
        return [AskReference("named", "asker"), AnswerReference("asker", "named")]


def test_questions_and_answers_are_keyed_by_the_call_that_they_are_for() -> None:
    log = Log()
    log.beat(1)
    part = worker(make_processor=Asking)
    part.feed(EVENTS, log.records)
    commit = part.cut()
    assert commit is not None
    assert [
        (record.topic, record.key, record.headers, orjson.loads(record.value or b""))
        for record in commit.side_records
    ] == [
        (
            REFERENCES,
            b"named",
            [("kind", b"reference_asked")],
            {"v": 1, "call_id": "named", "asker": "asker"},
        ),
        (
            REFERENCES,
            b"asker",
            [("kind", b"reference_known")],
            {"v": 1, "call_id": "asker", "referenced": "named"},
        ),
    ]
    assert all(record.partition is None for record in commit.side_records)


class Letters(Wrapped):
    def feed(self, records: Any) -> Any:
        return [DeadLetter("odd", "b", {"call_id": "x", "n": object}, call_id="x")]


def test_a_dead_letter_may_hold_anything() -> None:
    log = Log()
    log.beat(1)
    part = worker(make_processor=Letters)
    part.feed(EVENTS, log.records)
    commit = part.cut()
    assert commit is not None
    [letter] = commit.side_records
    assert letter.key == b"x"
    assert orjson.loads(letter.value or b"")["call_id"] == "x"


def test_a_state_of_a_newer_version_is_refused() -> None:
    with pytest.raises(StreamAppError, match="version 99"):
        worker(state=b'{"v": 99}')
