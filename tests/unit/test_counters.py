"""Numbers that must add up."""

from __future__ import annotations

from callstate.counters import Counters
from callstate.envelope import Malformed
from tests.calls import beat, events, processor, row, through_json


def test_events_are_applied_duplicates_dropped_or_dead_letters() -> None:
    door = processor("s", call_events_max=60)
    flood = events(*(row("R", n, to_tag="b", cseq=n) for n in range(30)))
    conflict = events(row("E", 5, cseq=9))[0]
    rows = [*flood, *flood[-3:], conflict, conflict._replace(cseq=8)]
    door.feed([*rows, Malformed("why", "s", None), beat("s", 1)])
    told = door.counters
    assert told.events == len(rows) + 1
    assert told.events == told.applied + told.duplicates + told.dropped + told.dead_letters
    assert told.heartbeats == 1


def test_calls_are_counted_once_and_revisions_apart() -> None:
    door = processor("s")
    *rows, end = events(row("R", 0), row("S", 5), row("E", 65, cseq=2))
    door.feed([*rows, beat("s", 30_000), end, beat("s", 30_010)])
    told = door.counters
    assert (told.cdrs, told.revised) == (1, 1)
    assert told.terminations == {"U": 1}


def test_they_survive_json_and_counters_of_other_versions() -> None:
    told = Counters(events=3, applied=2, terminations={"C": 1})
    assert Counters.from_json(through_json(told.to_json())) == told
    assert Counters.from_json({"events": 3, "of_another_version": 1}) == Counters(events=3)
