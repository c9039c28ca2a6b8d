"""Who came first: the protocol's order, and where it contradicts the clocks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from callstate.ordering import Order, order
from callstate.timed import timed_in_order
from tests.calls import US, events, row, work_of


def ordered(*rows: dict[str, Any]) -> Order:
    held = events(*rows)
    return order(timed_in_order(held, [event.time_us for event in held]))


def told(*rows: dict[str, Any]) -> list[int | None]:
    """Numbers of the rows as given, in resolved order."""
    return [event.id for _, event in ordered(*rows).timed]


@pytest.mark.parametrize(
    "rows",
    [
        (row("R", 9), row("S", 1)),
        (row("R", 9), row("F", 1)),
        (row("R", 9, via_count=1), row("R", 1, via_count=3)),
        (row("S", 9, via_count=3), row("S", 1, via_count=1)),
        (row("F", 9, via_count=3), row("F", 1, via_count=1)),
        (row("R", 9, cseq=1), row("R", 1, cseq=2)),
        (row("F", 9, cseq=1), row("R", 1, cseq=2)),
        (row("S", 9), row("E", 1, cseq=2)),
        (row("S", 9), row("T", 1, cseq=2)),
        (row("S", 9), row("E", 1, by_callee=True, cseq=0)),
        (row("T", 9, cseq=2), row("E", 1, cseq=3)),
    ],
    ids=lambda rows: f"{rows[0]['event_type']}{rows[1]['event_type']}",
)  # fmt: skip
def test_the_protocol_goes_before_the_clocks(rows: tuple[dict[str, Any], ...]) -> None:
    assert told(*rows) == [1, 2]
    assert ordered(*rows).inversions == [(0, 1)]


@pytest.mark.parametrize(
    "rows",
    [
        (row("E", 9, cseq=2), row("E", 1, by_callee=True, cseq=3)),  # CSeq is per direction
        (row("S", 9, callee="c"), row("E", 1, cseq=2)),  # another dialog, cseq decides
        (row("E", 9, cseq=5), row("E", 1, cseq=5)),
    ],
)
def test_what_it_leaves_open_the_clocks_decide(rows: tuple[dict[str, Any], ...]) -> None:
    later_first = rows[0]["from_tag"] == rows[1]["from_tag"] and rows[0]["cseq"] < rows[1]["cseq"]
    assert told(*rows) == ([1, 2] if later_first else [2, 1])


def test_then_server_and_id_decide() -> None:
    same = [row("E", 9, cseq=2, server=name) for name in ("b", "a", "b")]
    assert told(*same) == [2, 1, 3]


def test_times_that_agree_are_no_evidence() -> None:
    rows = (row("R", 0), row("R", 0.1, via_count=3), row("S", 5, via_count=3), row("S", 5.1))
    assert ordered(*rows, row("E", 65, cseq=2)).inversions == []


def test_contradictory_rows_are_put_in_some_order() -> None:
    """A setup with a higher CSeq than the end of its only dialog: no order satisfies both."""
    rows = (row("E", 1, cseq=1), row("S", 9, cseq=7))
    assert sorted(i or 0 for i in told(*rows)) == [1, 2]


def test_every_event_is_told_once_whatever_is_drawn() -> None:
    chance = random.Random(5)
    for _ in range(200):
        rows = [
            row(
                chance.choice("RSFTE"),
                chance.randrange(5),
                cseq=chance.randrange(3),
                by_callee=chance.random() < 0.5,
                via_count=chance.randrange(3),
                callee=chance.choice("bc"),
            )
            for _ in range(chance.randrange(1, 12))
        ]
        resolved = ordered(*rows)
        assert sorted(event.id or 0 for _, event in resolved.timed) == [*range(1, len(rows) + 1)]
        for before, after in resolved.inversions:
            assert before < after
            assert resolved.timed[before].time_us > resolved.timed[after].time_us


def test_it_costs_little_more_than_sorting() -> None:
    def work(count: int) -> int:
        (one,) = events(row("R", 0, to_tag="b"))
        held = [one._replace(id=n, cseq=n // 3, time_us=one.time_us + n * US) for n in range(count)]
        timed = timed_in_order(held, [event.time_us for event in held])
        return work_of(lambda: order(timed))

    assert work(20_000) < 20 * work(2_000)
