"""A CDR is a function of the set of a call's events: whatever the order, however often."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callstate.call import CallState
from callstate.config import ResolutionConfig
from callstate.effects import DeadLetter, Effect, EmitCdr, HideCall
from callstate.envelope import Record
from callstate.events import CallEvent
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from tests.calls import beat, through_json, with_references, written
from tests.property.strategies import (
    HORIZON,
    SERVERS,
    arrivals,
    batches,
    event_sets,
    heartbeats,
    streams,
)

# no call is forgotten while these tests still add events to it
# Where a row carries no probe the traffic tells its clock, and what it knew depends on what came
# before: those properties that compare different logs draw events that all carry one.
CONFIG = ResolutionConfig(servers=SERVERS, late_horizon_seconds=1e9)


def door() -> PartitionProcessor:
    return PartitionProcessor(CONFIG, DictStore())


def at_the_end_of_input(events: list[CallEvent]) -> tuple[dict[str, Any], dict[str, int]]:
    """CDRs, and revisions of all calls, when everything is read before anything is judged."""
    one = door()
    effects = [*with_references(one, events), *one.finish()]
    return written(effects), revisions(effects)


def live(log: list[Record]) -> tuple[dict[str, Any], dict[str, int]]:
    """The same when the log is followed by heartbeats that take the watermark past every limit."""
    one = door()
    effects = with_references(one, log)
    for step in range(1, 4):
        beats = [beat(server, 5e9 + step * HORIZON * 3) for server in (*SERVERS, "new")]
        effects += with_references(one, beats)
    return written(effects), revisions(effects)


def revisions(effects: list[Effect]) -> dict[str, int]:
    told: dict[str, int] = {}
    for effect in effects:
        if isinstance(effect, EmitCdr):
            told[effect.cdr.call_id] = effect.provenance.revision
        elif isinstance(effect, HideCall):
            told[effect.call_id] = effect.provenance.revision
            if effect.reason.startswith("one call with"):  # a use that turned out to be none
                del told[effect.call_id]
    return told


@given(st.data())
def test_any_order_and_any_duplication_give_the_same_cdrs(data: st.DataObject) -> None:
    events = data.draw(event_sets(probed=True))
    assert at_the_end_of_input(data.draw(arrivals(events))) == at_the_end_of_input(events)


@given(st.data())
def test_a_stream_with_any_watermarks_ends_with_the_same_cdrs_as_a_file(
    data: st.DataObject,
) -> None:
    events = data.draw(event_sets(probed=True))
    beats = data.draw(st.lists(heartbeats(), max_size=25))
    records: list[Record] = [*data.draw(arrivals(events)), *beats]
    log = data.draw(st.permutations(records))
    assert live(log) == at_the_end_of_input(events)


@given(st.data())
def test_an_event_that_comes_after_everything_is_as_if_it_had_never_been_missing(
    data: st.DataObject,
) -> None:
    events = data.draw(event_sets(least=2, probed=True))
    late = data.draw(st.sampled_from(events))
    beats = [beat(server, 3e9) for server in (*SERVERS, "new")]
    others = [event for event in events if event is not late]
    assert live([*others, *beats, late]) == at_the_end_of_input(events)


@given(st.data())
def test_the_same_records_give_the_same_effects_in_any_batches(data: st.DataObject) -> None:
    log = data.draw(streams())
    whole = door().feed(log)
    one = door()
    cut = [effect for batch in data.draw(batches(log)) for effect in one.feed(batch)]
    assert repr(cut) == repr(whole)


@given(st.data())
def test_a_restart_from_a_snapshot_anywhere_changes_nothing(data: st.DataObject) -> None:
    log = data.draw(streams())
    cut = data.draw(st.integers(0, len(log)))
    unbroken, first = door(), door()
    expected = [*unbroken.feed(log[:cut]), *unbroken.feed(log[cut:])]
    before = first.feed(log[:cut])
    second = restarted(first)
    assert repr([*before, *second.feed(log[cut:])]) == repr(expected)
    assert through_json(second.snapshot()) == through_json(unbroken.snapshot())


def restarted(first: PartitionProcessor) -> PartitionProcessor:
    """Another processor that knows of the first one what its changelog and snapshot say."""
    store = DictStore(
        (call_id, CallState.from_wire(through_json(state.to_wire())))
        for call_id, state in first._calls.all()
    )
    second = PartitionProcessor(CONFIG, store)
    second.restore(through_json(first.snapshot()))
    return second


@given(st.data())
def test_records_that_are_read_again_after_a_restart_change_no_cdr(data: st.DataObject) -> None:
    log = data.draw(streams())
    cut = data.draw(st.integers(0, len(log)))
    back = data.draw(st.integers(0, cut))
    first = door()
    told = with_references(first, log[:cut])
    second = restarted(first)
    told += with_references(second, log[back:])
    beats = [beat(server, 3e9 + step) for step in range(3) for server in (*SERVERS, "new")]
    unbroken = door()
    expected = [*with_references(unbroken, log), *with_references(unbroken, beats)]
    assert written([*told, *with_references(second, beats)]) == written(expected)


@given(streams())
def test_what_a_cdr_says_does_not_contradict_itself(log: list[Record]) -> None:
    one = door()
    for effect in [*with_references(one, log), *one.finish()]:
        if isinstance(effect, EmitCdr):
            cdr = effect.cdr
            known = [cdr.start_time_us, cdr.connect_time_us, cdr.end_time_us]
            times = [time for time in known if time is not None]
            assert times == sorted(times)
            assert cdr.to_tag != cdr.from_tag or not cdr.from_tag
            assert (cdr.failure_status is None) or cdr.termination in ("F", "A")


@given(st.data())
def test_the_revision_of_a_call_only_grows(data: st.DataObject) -> None:
    one = door()
    held: dict[str, int] = {}
    for record in data.draw(streams()):
        for effect in one.feed([record]):
            if isinstance(effect, EmitCdr | HideCall):
                call_id = effect.cdr.call_id if isinstance(effect, EmitCdr) else effect.call_id
                assert effect.provenance.revision >= held.get(call_id, 0)
                held[call_id] = effect.provenance.revision


@given(st.data())
def test_nothing_is_lost_in_the_books(data: st.DataObject) -> None:
    """Every event is applied, a duplicate, one too many, or a dead letter."""
    log = data.draw(streams())
    one = door()
    one.feed(log)
    told = one.counters
    assert told.events == told.applied + told.duplicates + told.dropped + told.dead_letters


@given(event_sets())
def test_a_call_that_nobody_placed_is_a_dead_letter_and_not_a_cdr(events: list[CallEvent]) -> None:
    one = door()
    effects = [*with_references(one, events), *one.finish()]
    placed = {event.call_id for event in events if event.type in "RS"}
    answered = {
        (effect.cdr.call_id if isinstance(effect, EmitCdr) else effect.call_id).split(";")[0]
        for effect in effects
        if isinstance(effect, EmitCdr) or (isinstance(effect, HideCall) and not effect.unknown)
    }
    letters = {effect.call_id.split(";")[0] for effect in effects if isinstance(effect, DeadLetter)}
    assert answered | letters == {event.call_id for event in events}
    assert answered <= placed
