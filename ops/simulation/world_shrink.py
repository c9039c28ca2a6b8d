"""A failing history made small: fewer calls, fewer events, fewer faults, while it still fails.

Owns the search. Greedy and bounded: what it returns fails in the same way as what it was given. A
call whose rows are left out loses its claim on the truth, so that nothing fails for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from callstate.envelope import EVENT
from ops.simulation.truth import Expect
from ops.simulation.world_check import Fault, run
from ops.simulation.world_history import Append, Fate, History, Work

Fails = Callable[[History], bool]


def shrink(history: History, faults: Sequence[Fault], *, runs_max: int = 400) -> History:
    """The smallest history found that still shows one of the kinds of these faults."""
    kinds = {fault.kind for fault in faults}
    left = runs_max

    def fails(one: History) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and bool(kinds & {fault.kind for fault in run(one).faults})

    wanted = {fault.call_id for fault in faults}
    calls = sorted({truth["call_id"] for truth in history.truths})
    suspects = [call_id for call_id in calls if call_id in wanted]
    for first in (_with_calls(history, suspects), _with_calls(history, suspects[:1])):
        if suspects and fails(first):
            history = first
    calls = sorted({truth["call_id"] for truth in history.truths})
    kept = _fewest(calls, lambda some: fails(_with_calls(history, some)))
    history = _with_calls(history, kept)
    history = _without_faults(history, fails)
    steps = _fewest(history.steps, lambda some: fails(replace(history, steps=tuple(some))))
    history = replace(history, steps=tuple(steps))
    records = [(at, n) for at, step in enumerate(history.steps) for n in range(len(_records(step)))]
    kept_records = _fewest(records, lambda some: fails(_with_records(history, some)))
    return _with_records(history, kept_records)


def _fewest(items: Sequence[Any], fails: Callable[[Sequence[Any]], bool]) -> Sequence[Any]:
    """Leaves out ever smaller runs of items while it still fails."""
    size = len(items) // 2
    while size >= 1:
        at = 0
        while at < len(items):
            fewer = [*items[:at], *items[at + size :]]
            if fails(fewer):
                items = fewer
            else:
                at += size
        size //= 2
    return items


def _with_calls(history: History, call_ids: Sequence[str]) -> History:
    kept = set(call_ids)
    rows = [
        (at, n)
        for at, step in enumerate(history.steps)
        for n, (kind, message) in enumerate(_records(step))
        if kind != EVENT or message["row"]["call_id"] in kept
    ]
    fewer = _with_records(history, rows)
    truths = tuple(truth for truth in fewer.truths if truth["call_id"] in kept)
    return replace(fewer, truths=truths)


def _without_faults(history: History, fails: Fails) -> History:
    """Batches end well where that changes nothing."""
    for at, step in enumerate(history.steps):
        if isinstance(step, Work) and step.fate is not Fate.DONE:
            healed = replace(step, fate=Fate.DONE)
            steps = (*history.steps[:at], healed, *history.steps[at + 1 :])
            if fails(replace(history, steps=steps)):
                history = replace(history, steps=steps)
    return history


def _records(step: Append | Work) -> Sequence[Any]:
    return step.records if isinstance(step, Append) else ()


def _with_records(history: History, kept: Sequence[tuple[int, int]]) -> History:
    wanted = set(kept)

    def steps() -> Iterator[Append | Work]:
        for at, step in enumerate(history.steps):
            if isinstance(step, Append):
                records = tuple(r for n, r in enumerate(step.records) if (at, n) in wanted)
                if records:
                    yield replace(step, records=records)
            else:
                yield step

    fewer = replace(history, steps=tuple(steps()))
    lost = {call_id for call_id, _, _ in _rows(history) - _rows(fewer)}
    return replace(fewer, truths=tuple(_without_claim(t, lost) for t in history.truths))


def _rows(history: History) -> set[tuple[str, str, int]]:
    return {
        (message["row"]["call_id"], message["server"], message["row"]["id"])
        for step in history.steps
        for kind, message in _records(step)
        if kind == EVENT
    }


def _without_claim(truth: Mapping[str, Any], lost: set[str]) -> Mapping[str, Any]:
    """Of a call that lost a row, or that names one that did, the truth says nothing any more."""
    named = (truth["cdr"] or {}).get("reference") or ""
    if truth["call_id"] in lost or any(call_id in named for call_id in lost):
        return {**truth, "expect": Expect.UNDEFINED.value}
    return truth
