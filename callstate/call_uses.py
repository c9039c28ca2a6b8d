"""A Call-ID that is used again: which events belong to which use.

Owns the telling apart. Usually there is one use, and that is found out at the cost of one set.
"""

from __future__ import annotations

from callstate import events as kinds
from callstate.config import ResolutionConfig, to_us
from callstate.events import CallEvent
from callstate.timed import Timed


def call_uses(timed: list[Timed], config: ResolutionConfig) -> list[list[Timed]]:
    """The calls inside one Call-ID, usually one: its uses that have nothing to do with each other.

    A request with another From tag that comes when everything before it is over for longer than a
    failure waits for another try begins a call of its own. Events go with the use whose tags they
    have, those without known tags with the first.
    """
    callers = {event.from_tag for _, event in timed if event.type == kinds.REQUEST}
    if len(callers) < 2:
        return [timed]
    wait_us = to_us(max(0.0, config.failed_wait_seconds))
    uses: list[tuple[set[str], list[Timed]]] = []
    last_us = None
    for item in timed:
        event = item.event
        use = next((use for use in reversed(uses) if not use[0].isdisjoint(_tags(event))), None)
        if use is None:
            over = last_us is None or item.time_us - last_us > wait_us
            if not uses or (over and _starts_dialog(event)):
                uses.append((set(), []))
            use = uses[-1]
        use[0].update(_tags(event))
        use[1].append(item)
        last_us = item.time_us
    return [events for _, events in uses]


def _starts_dialog(event: CallEvent) -> bool:
    return event.type == kinds.REQUEST and not event.to_tag


def _tags(event: CallEvent) -> tuple[str, ...]:
    return tuple(tag for tag in (event.from_tag, event.to_tag) if tag)
