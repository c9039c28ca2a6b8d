"""The set of a call's events: what is the same event, and what the state keeps."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import orjson
import pytest

from callstate.call import Applied, CallState, identity
from callstate.events import CallEvent
from tests.calls import clock, events, processor, row, through_json, us, work_of

(EVENT,) = events(row("S", 5, id=7))
MANY = 20_000


def applied(*told: CallEvent) -> CallState:
    state = CallState()
    for event in told:
        state.apply(event, MANY)
    return state


def test_a_delivery_again_changes_nothing() -> None:
    state = CallState()
    assert state.apply(EVENT, MANY) == (Applied.NEW, None)
    assert state.apply(EVENT, MANY) == (Applied.DUPLICATE, None)
    assert list(state.events.values()) == [EVENT]
    assert state.next_revision() == 1


def test_the_row_is_known_by_server_and_id() -> None:
    assert identity(EVENT) == ("s", 7)
    assert identity(EVENT._replace(server="t")) == ("t", 7)
    assert identity(EVENT._replace(observer="x", event_seq=9)) == ("s", 7)


def test_without_an_id_its_content_is_its_identity() -> None:
    bare = EVENT._replace(id=None)
    state = applied(bare, bare._replace(clock=clock(1)), bare._replace(event_seq=1))
    assert len(state.events) == 2


def test_the_tightest_clock_of_a_row_counts_in_any_order() -> None:
    stamps = [None, clock(1, 0.5), clock(1.2, 0.1), clock(0.9, 0.05, late=True)]
    for order in permutations(stamps):
        state = applied(*(EVENT._replace(clock=stamp) for stamp in order))
        assert [event.clock for event in state.events.values()] == [clock(1.2, 0.1)]


def test_of_two_rows_with_one_identity_the_lesser_is_kept_in_any_order() -> None:
    rows = [EVENT._replace(time_us=us(at)) for at in (5, 6, 7)]
    for order in permutations(rows):
        state = applied(*order)
        assert list(state.events.values()) == [rows[0]]


def test_a_conflict_hands_back_what_was_not_kept() -> None:
    state = applied(EVENT)
    greater = EVENT._replace(time_us=us(9))
    assert state.apply(greater, MANY) == (Applied.CONFLICT, greater)
    lesser = EVENT._replace(time_us=us(1))
    assert state.apply(lesser, MANY) == (Applied.CONFLICT, EVENT)


def test_the_revision_counts_what_is_known() -> None:
    state = applied(EVENT, EVENT._replace(id=8))
    state.known |= {"other"}
    state.gaps = 2
    assert state.next_revision() == 5


def test_a_state_and_back() -> None:
    state = applied(EVENT._replace(clock=clock(1)), EVENT._replace(id=8), EVENT._replace(id=None))
    state.deadline_us, state.revision, state.events_dropped, state.gaps = 9, 3, 4, 1
    state.known, state.askers = frozenset("ab"), frozenset("c")
    state.closed = True
    state.apply(EVENT._replace(id=99), MANY)
    wire = through_json(state.to_wire())
    assert orjson.loads(orjson.dumps(state.to_wire())) == wire
    again = CallState.from_wire(wire)
    for name in dir(state):
        if not name.startswith("_") and not callable(getattr(state, name)):
            assert getattr(again, name) == getattr(state, name), name
    assert again.late == frozenset((("s", 99),))


def test_a_state_of_another_version_is_refused() -> None:
    wire = CallState().to_wire()
    with pytest.raises(ValueError, match="version 99"):
        CallState.from_wire([99, *wire[1:]])


# -- the bound --------------------------------------------------------------------------------


def flood(count: int, **columns: Any) -> list[CallEvent]:
    (first,) = events(row("R", 10, to_tag="b", reference="x;rel=chain", id=1, **columns))
    return [
        first._replace(id=n, cseq=n, branch_id=f"z{n}", time_us=us(10 + n))
        for n in range(100, 100 + count)
    ]


def test_a_flood_displaces_no_other_sort_and_what_is_kept_knows_no_order() -> None:
    call = events(row("R", 0), row("S", 5), row("E", 500, cseq=2))
    floods = flood(300)
    kept = [applied_within(60, *order) for order in (
        [*call, *floods], [*floods, *call], [*reversed(floods), *call], [*floods[::2], *call,
        *floods[1::2]],
    )]  # fmt: skip
    assert all(held == kept[0] for held in kept)
    assert {identity(event) for event in call} <= kept[0]
    assert len(kept[0]) <= 60


def applied_within(bound: int, *told: CallEvent) -> set[object]:
    state = CallState()
    for event in told:
        state.apply(event, bound)
    return set(state.events)


@pytest.mark.parametrize("kind", "RSFTE")
def test_a_call_of_many_events_costs_little_more_than_its_length(kind: str) -> None:
    """Four times the events of one call on two servers, and far from sixteen times the work."""

    def work(count: int) -> int:
        door = processor("s", "t")
        outer, inner = {"server": "s"}, {"server": "t", "via_count": 3, "branch_id": "z3"}
        call = (row("R", 0), row("R", 0.01, **inner), row("S", 5, **inner), row("S", 5.1))
        (one,) = events(row(kind, 10, to_tag="b", reference="x;rel=chain"))
        told = events(*call)
        for n in range(count):
            hop = (outer, inner)[n % 2]
            told.append(one._replace(id=100 + n, cseq=2 + n, time_us=us(10 + n), **hop))

        def all_of_it() -> None:
            door.feed(told)
            list(door.finish())

        return work_of(all_of_it)

    assert work(4_000) < 9 * work(1_000)
