"""The parts of a replay that need no service: lines, digests, stores, plans, classes of change."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from callstate.call import CallState
from callstate.cdr import Cdr
from callstate.config import ResolutionConfig, TimeCorrection
from ops.errors import OpsError, UsageError
from ops.replay import applying, words
from ops.replay.diff import Facts, Kind, Summary, billed_seconds, classify
from ops.replay.digest import (
    Ledger,
    PartInput,
    digest_of,
    digest_of_inputs,
    digest_of_settings,
    key_of,
)
from ops.replay.exported import line_of
from ops.replay.pace import Pace, batch_of
from ops.replay.partitioner import murmur2, partition_of
from ops.replay.plan import PartPlan, Plan, Span, span_of
from ops.replay.reading import Reached
from ops.replay.registry import Replay, State
from ops.replay.share import Job
from ops.replay.source import Late
from ops.replay.store import HashSet, ReplayStore
from ops.replay.watching import Watching
from ops.replay.workers import shares
from stream_app.copy_text import cdr_line
from tests.calls import us


def cdr(**columns: Any) -> Cdr:
    plain = Cdr(
        "c@h", "f", "t", "<sip:a@x>", "<sip:b@x>", us(0), us(2.5), us(12), "C",
        None, None, None, "sip:a@10.0.0.1", None, True, "",
    )  # fmt: skip
    return plain._replace(**columns)


def record(**columns: Any) -> dict[str, Any]:
    return cdr(**columns).columns()


# -- lines and digests ---------------------------------------------------------------------------


def test_a_line_is_what_copy_would_write() -> None:
    assert cdr_line(cdr()).split("\t") == [
        "c@h", "f", "t", "<sip:a@x>", "<sip:b@x>", "2024-03-04 09:00:00", "2024-03-04 09:00:02.5",
        "2024-03-04 09:00:12", "C", "\\N", "\\N", "\\N", "\\N", "sip:a@10.0.0.1", "\\N", "t", "",
    ]  # fmt: skip
    odd = cdr_line(cdr(from_tag="a\tb\\c\n", failure_status=486, caller_internal=None))
    assert odd.split("\t")[1] == "a\\tb\\\\c\\n"
    assert odd.split("\t")[9] == "486"
    assert odd.split("\t")[15] == "\\N"


def test_a_digest_knows_no_order_but_every_column() -> None:
    lines = [cdr_line(cdr(call_id=f"{n}@h")).encode() for n in range(50)]
    shuffled = random.Random(1).sample(lines, len(lines))
    assert digest_of(lines) == digest_of(line + b"\n" for line in shuffled)
    for column, value in (("to_tag", "u"), ("end_time_us", us(12.000001)), ("callee_route", None)):
        other = cdr_line(cdr(call_id="0@h")._replace(**{column: value})).encode()
        assert digest_of(lines) != digest_of([other, *lines[1:]]), column
    assert digest_of(lines) != digest_of(lines[1:])


def test_a_ledger_counts_the_newest_telling() -> None:
    ledger, other = Ledger(), Ledger()
    ledger.add("a", b"first", 1, 0)
    ledger.add("a", b"second", 2, 0)
    ledger.add("a", b"too late", 1, 0)
    ledger.add("b", b"there", 3, 1)
    ledger.add("b", None, 3, 1)
    other.add("a", b"second", 2, 5)
    assert ledger.digest() == other.digest() == digest_of([b"second"])
    other.add("c", b"more", 1, 0)
    other.add("d", b"newer", 1, 0)
    assert ledger.compare(other, {key_of("d")}) == (1, 0, 0, 1)
    assert list(ledger.told(["b", "a", "z"])) == ["b", "a"]


def test_a_ledger_may_be_filled_by_several() -> None:
    names = [f"call {n}" for n in range(1_000)]
    whole, parts = Ledger(), [Ledger() for _ in range(3)]
    for n, name in enumerate(names):
        for ledger in (whole, parts[n % 3]):
            ledger.add(name, name.encode(), n % 7, n % 3)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    assert parts[2].digest() == whole.digest() == digest_of(name.encode() for name in names)


def test_digests_of_inputs_and_settings_are_of_their_content() -> None:
    parts = [PartInput(0, 0, 10, 9, 77), PartInput(1, 5, 10, 5, 78)]
    assert digest_of_inputs(parts) == digest_of_inputs(reversed(parts))
    assert digest_of_inputs(parts) != digest_of_inputs([parts[0]])
    assert digest_of_settings({"a": 1, "b": 2}) == digest_of_settings({"b": 2, "a": 1})
    assert digest_of_settings({"a": 1}) != digest_of_settings({"a": 2})


# -- stores --------------------------------------------------------------------------------------


def test_hashes_are_remembered_however_many() -> None:
    remembered = HashSet()
    for n in range(20_000):
        remembered.add(f"call {n}")
        remembered.add(f"call {n}")
    assert len(remembered) == 20_000
    assert all(f"call {n}" in remembered for n in range(20_000))
    assert not any(f"other {n}" in remembered for n in range(20_000))


def test_a_call_that_comes_up_again_is_known_to_have_been_forgotten() -> None:
    store = ReplayStore(keep={"kept"})
    for name in ("gone", "kept"):
        store.put(name, CallState())
        store.delete(name)
    assert store.get("new") is None
    assert store.get("kept") is not None
    assert store.returning == set()
    assert store.get("gone") is None
    assert store.returning == {"gone"}
    store.delete("begun and over in one batch")
    assert store.get("begun and over in one batch") is None
    assert "begun and over in one batch" in store.returning


def test_calls_that_are_over_are_let_go_when_there_are_many() -> None:
    store = ReplayStore(over_max=2)
    states = {name: CallState() for name in "abcd"}
    for name, state in states.items():
        store.put(name, state)
        state.closed = name != "a"
    states["b"].dirty = True
    store.told("abcd")
    assert {name for name, _ in store.items()} == {"a", "b", "c", "d"}, "open and dirty ones stay"
    store.told("e")
    assert {name for name, _ in store.items()} == {"a", "b", "d"}


# -- plans ---------------------------------------------------------------------------------------


def test_a_range_is_read_in_utc() -> None:
    span = span_of("2024-03-04T09:00:00", "2024-03-04T10:00:00+00:00")
    assert span == Span(us(0), us(3_600))
    assert span.holds(us(0))
    assert not span.holds(us(3_600))


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("yesterday", "2024-03-04T09:00:00Z", "not a time"),
        ("2024-03-04T09:00:00Z", "2024-03-04T09:00:00Z", "not before"),
        ("2024-03-05T09:00:00Z", "2024-03-04T09:00:00Z", "not before"),
        ("2024-03-04T09:00:00Z", "2999-01-01T00:00:00Z", "in the future"),
    ],
)
def test_a_range_that_cannot_be_is_bad_usage(start: str, end: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        span_of(start, end)


def plan(*parts: PartPlan) -> Plan:
    return Plan(Span(us(0), us(60)), us(-60), "topic", parts, 4, calls=("a",))


def test_a_plan_is_kept_as_json() -> None:
    made = plan(PartPlan(0, 5, 10, 0, 3, us(-30)))
    assert Plan.from_json(made.to_json()) == made
    with pytest.raises(OpsError, match="version"):
        Plan.from_json({**made.to_json(), "v": 99})


def test_a_plan_knows_what_retention_has_eaten() -> None:
    assert plan(PartPlan(0, 0, 9)).missing_until_us is None
    assert plan(PartPlan(0, 5, 9, first_us=us(-1))).missing_until_us is None
    assert plan(PartPlan(0, 5, 9, first_us=us(9)), PartPlan(1, 0, 9)).missing_until_us == us(9)
    assert plan(PartPlan(0, 5, 9)).is_cut


def test_shares_are_about_equal() -> None:
    parts = [PartPlan(n, 0, size) for n, size in enumerate((100, 10, 10, 80, 10, 0))]
    assert shares(parts, 1) == [[0, 1, 2, 3, 4, 5]]
    two = shares(parts, 2)
    assert sorted(n for share in two for n in share) == [0, 1, 2, 3, 4, 5]
    assert sorted(sum(parts[n].end for n in share) for share in two) == [100, 110]
    assert len(shares(parts[:2], 8)) == 2


def test_a_job_is_handed_to_other_processes() -> None:
    rules = ResolutionConfig(servers=("a",), time_correction=TimeCorrection.OFF)
    job = Job(plan(PartPlan(0, 0, 9)), rules, {"bootstrap.servers": "x"}, "t", "r", 7, "dbname=x")
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(
    ("value", "leaves"),
    [
        (b'{"row":{"event_time":"2024-03-04 08:59:59.999"}}', False),
        (b'{"row":{"event_time":"2024-03-04T09:00:00.000Z"}}', True),
        (b'{"row":{"event_time":"2024-03-05 00:00:00"}}', True),
        (b'{"row":{"event_time": "2024-03-05 00:00:00"}}', False),
        (b"not JSON", False),
    ],
)
def test_behind_the_range_only_late_events_matter(value: bytes, leaves: bool) -> None:
    late = Late(b"2024-03-04 09:00:00", {b"no end known"})
    assert late.leaves(b"call", value) is leaves
    assert late.leaves(b"no end known", value) is False


@given(st.binary(max_size=40))
def test_keys_are_hashed_as_other_clients_do(key: bytes) -> None:
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF


def test_calls_are_spread_over_all_partitions() -> None:
    assert {partition_of(f"call-{n}", 8) for n in range(100)} == set(range(8))


def test_the_pace_decides_how_much_is_fetched_at_once() -> None:
    assert batch_of(0) == 5_000
    assert batch_of(20_000) == 2_000
    assert batch_of(10) == 100
    Pace(0).note(1_000_000)


# -- classes of change ---------------------------------------------------------------------------

KNOWN = Facts(old_revision=3, new_revision=3)


@pytest.mark.parametrize(
    ("old", "new", "facts", "kinds"),
    [
        (None, record(), Facts(new_revision=3), {Kind.ADDED, Kind.MONEY}),
        (record(), None, KNOWN, {Kind.REMOVED, Kind.MONEY}),
        (record(), record(end_time_us=us(12.2)), KNOWN, {Kind.TIMES}),
        (record(), record(end_time_us=us(13)), KNOWN, {Kind.TIMES, Kind.MONEY}),
        (record(), record(end_time_us=None), KNOWN, {Kind.TIMES, Kind.MONEY}),
        (record(), record(termination="U"), KNOWN, {Kind.TERMINATION}),
        (record(), record(failure_status=408), KNOWN, {Kind.TERMINATION}),
        (record(), record(callee_aor="<sip:c@x>"), KNOWN, {Kind.PARTIES}),
        (record(), record(callee_route="r"), KNOWN, {Kind.OTHER}),
        (record(), record(to_tag="x"), Facts(4, 3), {Kind.NEWER}),
        (record(), None, Facts(3, None, told_later=True), {Kind.NEWER}),
        (record(), None, Facts(3, None), {Kind.NOT_REBUILT}),
        (record(), None, Facts(3, None, is_cut=True), {Kind.CUT}),
        (None, record(), Facts(None, 1, start_lost=True, is_cut=True), {Kind.CUT}),
        (record(), record(), Facts(3, 1, start_lost=True, is_cut=True), {Kind.CUT}),
    ],
)
def test_a_change_is_classified(old: Any, new: Any, facts: Facts, kinds: set[Kind]) -> None:
    change = classify("c@h", old, new, facts)
    assert set(change.kinds) == kinds
    assert change.applicable == (not kinds & {Kind.NEWER, Kind.CUT, Kind.NOT_REBUILT})


def test_causes_are_told_as_far_as_they_can_be() -> None:
    assert classify("c", record(), record(termination="U"), Facts(3, 4)).cause == "more events"
    assert classify("c", record(), record(termination="U"), KNOWN).cause == (
        "other rules or settings"
    )
    assert classify("c", None, record(), Facts(None, 3)).cause == "the service never told it"


def test_a_begun_second_of_talk_is_billed_whole() -> None:
    assert billed_seconds(record()) == 10
    assert billed_seconds(record(connect_time_us=None)) == 0
    assert billed_seconds(None) == 0


def test_changes_are_counted_with_their_minutes() -> None:
    summary = Summary(unchanged=2, unchanged_seconds=120)
    summary.add(classify("a", record(), record(end_time_us=us(72)), KNOWN))
    summary.add(classify("b", None, record(), Facts(None, 3)))
    summary.add(classify("c", record(), None, Facts(3, None)))
    told = summary.to_json()
    assert told["changed"] == 3
    assert told["applicable"] == 2
    assert told["kinds"][Kind.MONEY.value] == 2
    assert told["minutes"] == {"before": 2.167, "after": 3.333, "difference": 1.167}
    assert [60_000, 1] in told["moved_ms"]["end_time"]


# -- what may be applied -------------------------------------------------------------------------


def replay(state: State = State.DONE, **result: Any) -> Replay:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    return Replay(7, state, plan(PartPlan(0, 0, 9)), {"a": 1}, result, "0", now)


@pytest.mark.parametrize(
    ("found", "settings", "newest", "said"),
    [
        (replay(State.RUNNING), {"a": 1}, None, "running"),
        (replay(State.APPLIED), {"a": 1}, None, "applied"),
        (replay(State.DROPPED), {"a": 1}, None, "dropped"),
        (replay(missing_until="T"), {"a": 1}, None, "retention"),
        (replay(), {"a": 2}, None, "other settings.*a = 1"),
        (replay(), {"a": 1}, 9, "replay 9 is newer"),
    ],
)
def test_what_must_not_be_applied_is_refused(
    found: Replay, settings: dict[str, Any], newest: int | None, said: str
) -> None:
    with pytest.raises(OpsError, match=said):
        applying.check(found, settings, accept_missing=False, newest=newest)


def test_what_is_missing_may_be_accepted() -> None:
    told = replay(State.UNDONE, missing_until="T")
    applying.check(told, {"a": 1}, accept_missing=True, newest=5)


# -- words ---------------------------------------------------------------------------------------


def test_a_stranger_cannot_write_to_the_terminal() -> None:
    change = classify("\x1b[31m@h", record(), record(callee_aor="\x1b]0;x\x07"), KNOWN).to_json()
    text = "\n".join(words.change_lines(change))
    assert "\x1b" not in text
    assert "callee_aor" in text


def test_progress_is_one_line() -> None:
    watching = Watching(1_000)
    watching.tell("reading", Reached(0, None))
    line = watching.line(watching._began + 2, Reached(500, us(60)))
    assert (
        line
        == "reading [##########..........]  50%, 250 records/s, 0:02 left, at 2024-03-04T09:01:00"
    )


@pytest.mark.parametrize("value", [b'{"v":1}', b"not JSON", b'{"a":\n1}', b"\xff", None])
def test_every_record_has_a_line_in_an_export(value: bytes | None) -> None:
    import orjson

    from ops.replay.exported import _value_of

    line = line_of(7, 8, "event", b'k"\xff,"message":', value)
    assert line.count(b"\n") == 1
    told = orjson.loads(line)
    assert (told["offset"], told["written_ms"], told["kind"]) == (7, 8, "event")
    assert _value_of(line, told) == value
