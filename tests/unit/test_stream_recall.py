"""Calls that were forgotten come back from what was told of them, whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from callstate.effects import EmitCdr, HideCall
from callstate.envelope import Heartbeat, ReferenceKnown, event_message
from callstate.events import Clock
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from callstate.recall import Told, call_from_provenance, named_apart
from stream_app.partition import PartitionWorker
from tests.calls import DEFAULTS, events, row, us
from tests.streaming import call_rows
from tests.unit.test_stream_partition import EVENTS, SETTINGS, Log

CLOCK = Clock(late=False, error_us=1_000, offset_us=250_000)
ANSWERED = (row("R", 0), row("S", 2), row("E", 12, cseq=2))
CASES: dict[str, Sequence[dict[str, Any]]] = {
    "answered": ANSWERED,
    "probed": [{**told, "clock": CLOCK} for told in ANSWERED],
    "refused": (row("R", 0), row("F", 3)),
    "without ids": [{**told, "id": None} for told in ANSWERED],
    "two servers": (*ANSWERED, row("R", 0.5, server="t", via_count=2, branch_id="z2")),
    "hidden": (row("R", 0, to_url="<sip:~~mh~1@x>"), row("S", 2), row("E", 12, cseq=2)),
    "used again": (*ANSWERED, row("R", 500, caller="c"), row("S", 502, caller="c"),
                   row("E", 510, caller="c", cseq=2)),
}  # fmt: skip


def told_of(effects: Sequence[Any]) -> dict[str, Told]:
    """As it comes back from the database."""
    told: dict[str, Told] = {}
    for effect in effects:
        if isinstance(effect, EmitCdr):
            name, cdr = effect.cdr.call_id, effect.cdr.columns()
        elif isinstance(effect, HideCall):
            name, cdr = effect.call_id, None
        else:
            continue
        told[name] = Told(*orjson.loads(orjson.dumps([effect.provenance.to_json(), cdr])))
    return told


def beat(at: float) -> Heartbeat:
    return Heartbeat("s", us(at), None)


@pytest.mark.parametrize("case", CASES)
def test_a_call_comes_back_as_it_was_told(case: str) -> None:
    store = DictStore()
    door = PartitionProcessor(dataclasses.replace(DEFAULTS, servers=("s",)), store)
    held_by = [Heartbeat("t", us(1_000), None)] if case == "two servers" else []
    told = told_of(door.feed([*events(*CASES[case]), *held_by, beat(0), beat(1_000)]))
    first = told["call"]
    others = [told[name] for name in named_apart(first.provenance)]
    assert len(others) == (case == "used again")
    again = call_from_provenance("call", first, others)
    held = store["call"]
    for name in dir(held):
        if name != "deadline_us" and not name.startswith("_") and not callable(getattr(held, name)):
            assert getattr(again, name) == getattr(held, name), name


def test_answered_references_and_gaps_count_again() -> None:
    leg = (row("R", 0, reference="other;rel=chain"), *ANSWERED[1:])
    store = DictStore()
    door = PartitionProcessor(dataclasses.replace(DEFAULTS, servers=("s",)), store)
    records = [*events(*leg), ReferenceKnown("call", "other"), beat(0), beat(1_000)]
    first = told_of(door.feed(records))["call"]
    assert first.cdr is None
    again = call_from_provenance("call", first)
    assert again.known == {"other"}
    assert again.next_revision() == store["call"].revision == 4


def test_a_provenance_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        call_from_provenance("call", Told({"events": [{}], "offsets": []}, None))


# -- in a partition --------------------------------------------------------------------------------

SHORT = dataclasses.replace(
    SETTINGS, resolution=dataclasses.replace(SETTINGS.resolution, late_horizon_seconds=1)
)


def late_log() -> tuple[Log, int]:
    """A call without its BYE, forgotten; its BYE comes behind the number that is returned."""
    log = Log()
    log.call("one", 0)
    end = log.records.pop()
    log.beat(10)
    log.beat(30_000)
    log.beat(40_000)
    cut = len(log.records)
    log.records.append(end._replace(offset=cut))
    log.beat(40_100)
    log.beat(40_200)
    return log, cut


def test_a_late_event_of_a_forgotten_call_waits_for_the_database() -> None:
    log, cut = late_log()
    part = PartitionWorker(SHORT, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records[:cut])
    assert not part.wanted
    commit = part.cut()
    assert commit is not None
    [written] = commit.calls
    assert written.cdr is not None
    assert written.cdr.termination == "U"
    part.feed(EVENTS, [])
    assert part.cut() is not None
    part.feed(EVENTS, log.records[cut : cut + 1], "late")
    part.feed(EVENTS, log.records[cut + 1 :], "behind")
    assert part.wanted == {"one"}
    assert (part.pending_records, part.held_records) == (0, 3)
    assert part.cut() is None
    told = Told(written.provenance.to_json(), written.cdr.columns())
    part.recall({"one": call_from_provenance("one", told)})
    assert not part.wanted
    commit = part.cut()
    assert commit is not None
    assert commit.tokens == ("late", "behind")
    [again] = commit.calls
    assert again.cdr is not None
    assert (again.cdr.termination, again.provenance.revision) == ("C", 3)
    assert again.provenance.changed["termination"] == ["U", "C"]
    assert again.provenance.late_events == 1


def test_a_call_told_and_forgotten_in_one_backlog_needs_no_database() -> None:
    log, cut = late_log()
    part = PartitionWorker(SHORT, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records[:cut])
    part.feed(EVENTS, log.records[cut:])
    assert not part.wanted
    commit = part.cut()
    assert commit is not None
    assert [call.provenance.revision for call in commit.calls] == [3]


def test_a_call_told_and_forgotten_in_one_batch_is_not_lost() -> None:
    """Hours of sparse traffic come as one batch: time must not leap within what is fed at once."""
    log, _ = late_log()
    part = PartitionWorker(SHORT, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records, "hours")
    assert not part.wanted
    commit = part.cut()
    assert commit is not None
    assert commit.tokens == ("hours",)
    assert commit.records == len(log.records)
    [told] = commit.calls
    assert told.cdr is not None
    assert (told.cdr.termination, told.provenance.revision) == ("C", 3)


def test_a_bye_whose_call_nobody_saw_begin_waits_for_it_in_the_database() -> None:
    """Its server was away for hours: the dead letter alone would leave the call without its end."""
    log = Log()
    log.call("one", 0)
    began = [log.records.pop(0), log.records.pop(0)]
    log.records = [record._replace(offset=n) for n, record in enumerate(log.records)]
    for at in (10, 30_000, 40_000):
        log.beat(at)
    cut = len(log.records)
    log.records += [record._replace(offset=cut + n) for n, record in enumerate(began)]
    log.beat(40_100)
    log.beat(40_200)
    part = PartitionWorker(SHORT, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records[:cut])
    assert not part.wanted or part.recall({}) is None  # nobody knows it
    commit = part.cut()
    assert commit is not None
    [written] = commit.calls
    assert (written.cdr, written.hidden_reason) == (None, "end only")
    assert [record.topic for record in commit.side_records] == [SHORT.dead_letter_topic]
    part.feed(EVENTS, [])
    assert part.cut() is not None
    part.feed(EVENTS, log.records[cut:])
    assert part.wanted == {"one"}
    told = Told(orjson.loads(orjson.dumps(written.provenance.to_json())), None)
    part.recall({"one": call_from_provenance("one", told)})
    commit = part.cut()
    assert commit is not None
    [again] = commit.calls
    assert again.cdr is not None
    assert (again.cdr.termination, again.provenance.revision) == ("C", 3)


def test_a_call_that_a_batch_lets_go_and_speaks_of_is_held() -> None:
    """Its time is over at a heartbeat, and its late event comes behind that in the same batch."""
    rules = dataclasses.replace(SETTINGS.resolution, late_horizon_seconds=100)
    log = Log()
    log.call("one", 0)
    log.beat(60)
    log.beat(150)
    cut = len(log.records)
    log.beat(161)
    again = call_rows("one", 0)[2] | {"id": 4_711}
    log.add("event", event_message("a", "0/1", None, None, again), "one")
    log.beat(170)
    log.beat(180)
    settings = dataclasses.replace(SETTINGS, resolution=rules)
    part = PartitionWorker(settings, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records[:cut], "told")
    commit = part.cut()
    assert commit is not None
    assert [call.provenance.revision for call in commit.calls] == [3]
    part.feed(EVENTS, log.records[cut:], "late")
    assert not part.wanted
    commit = part.cut()
    assert commit is not None
    assert [(call.call_id, call.provenance.revision) for call in commit.calls] == [("one", 4)]


def test_new_calls_are_not_looked_up() -> None:
    log = Log()
    log.beat(0)
    log.call("one", 10)
    log.beat(100)
    part = PartitionWorker(SHORT, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records)
    assert not part.wanted
    assert part.cut() is not None


def test_whom_nobody_knows_begins_anew() -> None:
    log = Log()
    log.call("one", 0)
    part = PartitionWorker(SHORT, 0, 7, {}, recalling=True)
    part.feed(EVENTS, log.records[2:], "token")
    assert part.wanted == {"one"}
    part.recall({})
    assert not part.wanted
    commit = part.cut()
    assert commit is not None
    assert commit.tokens == ("token",)


def used_again_log() -> Log:
    """A call, forgotten; then another one with its Call-ID."""
    log = Log()
    log.call("one", 0)
    for at in (100, 20_000, 20_100):
        log.beat(at)
    for told in call_rows("one", 20_101):
        again = {**told, "id": told["id"] + 1_000_003, "from_tag": "g"}
        log.add("event", event_message("a", "0/1", None, CLOCK, again), "one")
    log.beat(20_400)
    return log


def test_a_call_id_that_begins_again_in_a_backlog_keeps_both_calls() -> None:
    log = used_again_log()
    worker = PartitionWorker(SHORT, 0, 1, {}, recalling=True)
    worker.feed(EVENTS, log.records, "token")
    commit = worker.cut()
    assert commit is not None
    told = {call.call_id: call for call in commit.calls}
    assert set(told) == {"one", "one;from-tag=g"}
    assert {name: call.provenance.revision for name, call in told.items()} == {
        "one": 3,
        "one;from-tag=g": 3,
    }
    assert told["one"].provenance.basis == {"uses": ["one;from-tag=g"]}
    assert told["one;from-tag=g"].cdr is not None
    assert told["one;from-tag=g"].cdr.call_id == "one;from-tag=g"
