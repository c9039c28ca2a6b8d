"""The one door: references between calls, gaps, restarts, and what is told how often."""

from __future__ import annotations

import json
from typing import Any

from callstate.call import CallState
from callstate.config import ResolutionConfig
from callstate.effects import (
    AnswerReference,
    AskReference,
    DeadLetter,
    Effect,
    EmitCdr,
    HideCall,
    RecordLate,
)
from callstate.envelope import Gap, Malformed, Record, ReferenceAsked, ReferenceKnown
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from tests.calls import (
    beat,
    clock,
    events,
    processor,
    row,
    through_json,
    us,
    with_references,
    written,
)

CALL = (row("R", 0), row("S", 5), row("E", 65, cseq=2))


def chained(*named: str, call_id: str = "leg") -> list[Any]:
    """A call that names others as its chain."""
    reference = ",".join(f"{name};rel=chain" for name in named)
    told = (row("R", 1, reference=reference), row("S", 6), row("E", 60, cseq=2))
    return [
        event._replace(id=(event.id or 0) + 50)
        for event in events(*(one | {"call_id": call_id} for one in told))
    ]


def restarted(door: PartitionProcessor) -> PartitionProcessor:
    """What another worker makes of the changelog."""
    held = {c: through_json(s.to_wire()) for c, s in door._calls.all()}
    store = DictStore((call_id, CallState.from_wire(wire)) for call_id, wire in held.items())
    again = PartitionProcessor(door.config, store)
    again.restore(through_json(door.snapshot()))
    return again


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


# -- telling -----------------------------------------------------------------------------------


def test_a_call_is_told_once_however_often_its_rows_come() -> None:
    door = processor("s")
    told = [*events(*CALL), *events(*CALL)]
    effects = door.feed([*told, beat("s", 100), *told, beat("s", 200), *told])
    assert kinds(effects) == ["EmitCdr"]
    assert (door.counters.applied, door.counters.duplicates) == (3, 15)


def test_events_again_with_another_probe_are_the_same_events() -> None:
    door = processor("s")
    stamped = [event._replace(clock=clock(0)) for event in events(*CALL)]
    (effect,) = door.feed([*events(*CALL), *stamped, beat("s", 100)])
    assert isinstance(effect, EmitCdr)
    assert effect.provenance.revision == 3


def test_a_restart_keeps_the_timers_of_open_calls() -> None:
    door = processor("s")
    door.feed([*events(*CALL), beat("s", 30)])
    again = restarted(door)
    assert again.watermark_us == door.watermark_us
    assert kinds(again.feed([beat("s", 100)])) == ["EmitCdr"]


def test_a_restart_tells_nothing_again() -> None:
    door = processor("s")
    door.feed([*events(*CALL), beat("s", 100)])
    assert restarted(door).feed([beat("s", 1_000), *events(*CALL), beat("s", 2_000)]) == []


def test_a_closed_call_is_forgotten_when_nothing_can_be_late_any_more() -> None:
    door = processor("s", late_horizon_seconds=600)
    door.feed([*events(*CALL), beat("s", 100), beat("s", 500)])
    assert dict(door._calls.all())
    door.feed([beat("s", 900)])
    assert not dict(door._calls.all())
    assert door.counters.forgotten == 1


def test_a_call_that_nobody_placed_is_a_dead_letter_until_somebody_did() -> None:
    door = processor("s")
    *placed, end = events(*CALL)
    letter, kept = door.feed([end, beat("s", 300)])
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.call_id) == ("end only", "call")
    assert isinstance(kept, HideCall)
    assert (kept.reason, kept.unknown, len(kept.provenance.events)) == ("end only", True, 1)
    late = door.feed([*placed, beat("s", 400)])
    assert kinds(late) == ["RecordLate", "RecordLate", "EmitCdr"]


def test_what_cannot_be_read_is_a_dead_letter_whole() -> None:
    (letter,) = processor("s").feed([Malformed("why", "s", {"a": 1})])
    assert letter == DeadLetter("why", "s", {"a": 1})


def test_provenance_says_what_was_late_and_missing() -> None:
    door = processor("s")
    start, answer, end = events(*CALL)
    door.feed([answer, end, beat("s", 100)])
    effects = door.feed([start, beat("s", 200)])
    assert isinstance(effects[0], RecordLate)
    assert isinstance(effects[1], EmitCdr)
    provenance = effects[1].provenance
    assert provenance.missing == ()
    assert provenance.late_events == 1
    assert provenance.revision == 3
    assert [event["event_type"] for event in provenance.events] == ["R", "S", "E"]
    assert provenance.rule == "BYE"
    assert provenance.servers == ("s",)
    json.dumps(provenance.to_json())


def test_the_losers_of_a_call_have_a_reason() -> None:
    loser = (row("S", 5.1, callee="c"), row("E", 5.2, callee="c", cseq=2))
    (effect,) = processor("s").feed([*events(*CALL, *loser), beat("s", 100)])
    assert isinstance(effect, EmitCdr)
    verdicts = [(leg["to_tag"], leg["verdict"]) for leg in effect.provenance.legs]
    assert verdicts == [("b", "won"), ("c", "lost: shorter than the winner")]


# -- references ----------------------------------------------------------------------------------


def test_a_leg_is_hidden_when_all_calls_that_it_names_are_known() -> None:
    door = processor("s")
    effects = with_references(door, [*events(*CALL), *chained("call"), beat("s", 100)])
    effects += with_references(door, [beat("s", 200)])
    assert set(written(effects)) == {"call"}


def test_a_leg_is_written_when_only_some_are_known() -> None:
    door = processor("s")
    records: list[Record] = [*events(*CALL), *chained("call", "nobody"), beat("s", 100)]
    effects = with_references(door, records)
    effects += with_references(door, [beat("s", 200), beat("s", 300)])
    assert set(written(effects)) == {"call", "leg"}


def test_the_named_call_may_come_when_the_leg_is_long_written() -> None:
    door = processor("s")
    effects = with_references(door, [*chained("call"), beat("s", 100)])
    assert set(written(effects)) == {"leg"}
    effects += with_references(door, [*events(*CALL), beat("s", 200)])
    effects += with_references(door, [beat("s", 300)])
    assert set(written(effects)) == {"call"}
    assert [e.reason for e in effects if isinstance(e, HideCall)] == ["leg of a chain"]


def test_an_end_alone_does_not_make_a_call_known() -> None:
    door = processor("s")
    effects = with_references(door, [events(*CALL)[2], *chained("call"), beat("s", 100)])
    effects += with_references(door, [beat("s", 400)])
    assert set(written(effects)) == {"leg"}


def test_questions_and_answers_between_partitions() -> None:
    ours, theirs = processor("s"), processor("s")
    asked = ours.feed(chained("call"))
    assert asked == [AskReference("call", "leg")]
    question = ReferenceAsked("call", "leg")
    assert theirs.feed([question, question]) == []
    theirs = restarted(theirs)
    answered = theirs.feed(events(*CALL))
    assert answered == [AnswerReference("leg", "call")]
    assert theirs.feed([question]) == [AnswerReference("leg", "call")]
    ours.feed([ReferenceKnown("leg", "call")])
    assert kinds(restarted(ours).feed([beat("s", 100)])) == ["HideCall"]


def test_a_call_that_is_only_named_is_not_kept_for_ever() -> None:
    door = processor("s", late_horizon_seconds=1, reference_horizon_seconds=600)
    door.feed([beat("s", 10), ReferenceAsked("nobody", "leg"), ReferenceKnown("gone", "x")])
    door.feed([beat("s", 500)])
    assert set(dict(door._calls.all())) == {"nobody", "gone"}
    door.feed([beat("s", 700)])
    assert not dict(door._calls.all())


def test_a_call_that_was_named_first_is_told_as_any_other() -> None:
    door = processor("s")
    told: list[Record] = [beat("s", 1), ReferenceAsked("call", "leg"), *events(*CALL)]
    assert kinds(door.feed([*told, beat("s", 100)])) == ["AnswerReference", "EmitCdr"]


# -- gaps ----------------------------------------------------------------------------------------


def gap(since: float, until: float) -> Gap:
    return Gap("s", "0/1", "0/2", us(since), us(until), "slot lost")


def suspects(effects: list[Effect]) -> list[bool]:
    return [effect.provenance.suspect for effect in effects if isinstance(effect, EmitCdr)]


def test_a_call_inside_a_gap_is_suspect() -> None:
    assert suspects(processor("s").feed([gap(10, 20), *events(*CALL), beat("s", 100)])) == [True]
    assert suspects(processor("s").feed([gap(70, 99), *events(*CALL), beat("s", 100)])) == [False]


def test_a_gap_that_is_told_later_makes_a_revision() -> None:
    door = processor("s")
    told = door.feed([*events(*CALL), beat("s", 100), gap(10, 20), gap(10, 20), beat("s", 200)])
    assert suspects(told) == [False, True]
    assert suspects(restarted(door).feed([gap(0, 9), beat("s", 300)])) == [True]


def test_a_use_that_a_late_event_joins_to_the_first_is_taken_back() -> None:
    first = (row("R", 0), row("S", 5), row("E", 65, cseq=2))
    again = (
        row("R", 300, caller="q", callee="r"),
        row("S", 305, caller="q", callee="r"),
        row("E", 365, cseq=2, caller="q", callee="r"),
    )
    joining = row("E", 200, cseq=9)
    held = events(*first, *again, joining)
    door = processor()
    told = door.feed([*held[:-1], beat("s", 5_000)])
    names = [effect.cdr.call_id for effect in told if isinstance(effect, EmitCdr)]
    assert names == ["call", "call;from-tag=q"]

    revised = restarted(door).feed([held[-1], beat("s", 5_010)])
    (hidden,) = (effect for effect in revised if isinstance(effect, HideCall))
    assert hidden.call_id == "call;from-tag=q"
    assert hidden.reason == "one call with call"
    assert [effect.cdr.call_id for effect in revised if isinstance(effect, EmitCdr)] == ["call"]


def test_only_the_timers_of_the_next_minutes_are_held() -> None:
    """An answered call's limit lies hours ahead, and a told call is forgotten in two."""
    store = DictStore()
    config = ResolutionConfig(servers=("s",), late_horizon_seconds=3_000)
    door = PartitionProcessor(config, store)
    for number in range(6_000):
        call_id, at = f"c{number}", number
        told = (row("R", at), row("S", at + 1), row("E", at + 2, cseq=2))
        named = ({**each, "call_id": call_id} for each in told)
        door.feed([*events(*named), beat("s", at + 3)])
        assert len(door._calls._timers) <= 2_000
    assert len(store) < 4_500
    assert all(store.deadline(call_id) is not None for call_id in store)
    door.feed([beat("s", 20_000), beat("s", 30_000)])
    assert not store


def test_timers_fire_in_order_however_far_time_leaps() -> None:
    def told(*beats: int) -> list[str]:
        door = processor()
        calls = (row("R", at, call_id=f"c{at % 7}{at}") for at in range(5_000, 0, -100))
        effects = door.feed([*events(*calls), *(beat("s", at) for at in beats)])
        return [effect.cdr.call_id for effect in effects if isinstance(effect, EmitCdr)]

    by_steps = told(*range(1, 9_000, 50))
    assert len(by_steps) == 50
    assert told(1, 9_000) == by_steps


def test_an_answered_call_is_not_looked_at_when_its_ringing_would_be_over() -> None:
    store = DictStore()
    config = ResolutionConfig(servers=("s",))
    door = PartitionProcessor(config, store)
    request, setup = events(row("R", 0), row("S", 5))
    door.feed([request])
    ringing_us = store.deadline("call")
    assert ringing_us == us(config.max_ringing_seconds) + 1
    door.feed([setup])
    assert store.deadline("call") == us(config.max_call_seconds) + 1
    beyond = config.max_call_seconds + config.allowed_lateness_seconds + 1
    (told,) = written(door.feed([beat("s", beyond)])).values()
    assert told["termination"] == "U"
