"""One call as the stream app holds it: the set of its distinct events, and where it stands.

Owns identity (which deliveries are the same event) and the encoding of the state. Refuses to know
what the events mean: `resolution` does.

Applying an event twice changes nothing, and no order of arrival can be told from another:
`(server, id)` names a row; of two different rows with one identity the lesser by content is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Any, Final

from callstate.events import CallEvent, Clock, content_key

STATE_VERSION: Final = 1

Identity = tuple[object, ...]


class Applied(Enum):
    """What applying an event did."""

    NEW = auto()
    DUPLICATE = auto()
    TIGHTER_CLOCK = auto()  # a duplicate that carries a better probe of its server's clock
    CONFLICT = auto()  # the same identity with other content: one of both is a dead letter
    FULL = auto()  # beyond the bound: counted, not kept


def identity(event: CallEvent) -> Identity:
    """What makes two deliveries the same event."""
    if event.id is not None:
        return (event.server, event.id)
    return event[:-1]


class CallState:
    """The events of one call and the progress made with it. Mutable; owned by one partition.

    Attributes:
        events: Identity to event.
        deadline_us: Watermark at which the call is looked at next; None: no timer.
        closed: Whether a CDR (or its absence) has been told at least once.
        dirty: Closed, and something came since that the last telling did not know.
        revision: Revision told last, 0 before the first.
        late_events: Events that came after the call was closed.
        events_dropped: Distinct deliveries beyond the bound, counted and not kept.
        known: Calls that this one names and that are known to exist.
        askers: Calls that name this one and wait for an answer.
        gaps: Number of gap records whose time range touches this call.
    """

    __slots__ = (
        "askers",
        "closed",
        "deadline_us",
        "dirty",
        "events",
        "events_dropped",
        "gaps",
        "known",
        "late_events",
        "revision",
    )

    def __init__(self) -> None:
        self.events: dict[Identity, CallEvent] = {}
        self.deadline_us: int | None = None
        self.closed = False
        self.dirty = False
        self.revision = 0
        self.late_events = 0
        self.events_dropped = 0
        self.known: frozenset[str] = frozenset()
        self.askers: frozenset[str] = frozenset()
        self.gaps = 0

    def apply(self, event: CallEvent, events_max: int) -> tuple[Applied, CallEvent | None]:
        """Adds an event; returns what it did and, for a conflict, the event that was not kept."""
        key = identity(event)
        held = self.events.get(key)
        if held is None:
            if len(self.events) >= events_max:
                self.events_dropped += 1
                return Applied.FULL, event
            self.events[key] = event
            return Applied.NEW, None
        if held[:-1] == event[:-1]:
            if event.clock is None or (held.clock is not None and held.clock <= event.clock):
                return Applied.DUPLICATE, None
            self.events[key] = held._replace(clock=event.clock)
            return Applied.TIGHTER_CLOCK, None
        kept, other = sorted((held, event), key=content_key)
        self.events[key] = kept
        return Applied.CONFLICT, other

    def next_revision(self) -> int:
        """Counts what is known, so that it is the same on every run and only ever grows."""
        return len(self.events) + len(self.known) + self.gaps

    def to_wire(self) -> list[Any]:
        """A JSON-able form; `from_wire` reads it back, also that of older versions."""
        return [
            STATE_VERSION,
            self.deadline_us,
            self.closed,
            self.dirty,
            self.revision,
            self.late_events,
            self.events_dropped,
            sorted(self.known),
            sorted(self.askers),
            self.gaps,
            [[*event[:-1], event.clock and list(event.clock)] for event in self.events.values()],
        ]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> CallState:
        """Reads what `to_wire` wrote.

        Raises:
            ValueError: The version is one that this program does not know.
        """
        if wire[0] != STATE_VERSION:
            raise ValueError(
                f"call state of version {wire[0]!r}, this program reads {STATE_VERSION}"
            )
        state = cls()
        (
            state.deadline_us,
            state.closed,
            state.dirty,
            state.revision,
            state.late_events,
            state.events_dropped,
            known,
            askers,
            state.gaps,
            events,
        ) = wire[1:]
        state.known = frozenset(known)
        state.askers = frozenset(askers)
        state.add(_event_from_wire(fields) for fields in events)
        return state

    def add(self, events: Iterable[CallEvent]) -> None:
        """Takes events that are known to be distinct."""
        for event in events:
            self.events[identity(event)] = event


def _event_from_wire(fields: Sequence[Any]) -> CallEvent:
    *columns, clock = fields
    return CallEvent._make((*columns, clock and Clock(*clock)))
