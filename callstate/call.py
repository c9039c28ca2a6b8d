"""One call as the stream app holds it: the set of its distinct events, and where it stands.

Owns identity (which deliveries are the same event), the bound on a call's events and the encoding
of the state. Refuses to know what the events mean: `resolution` does.

Applying an event twice changes nothing, and no order of arrival can be told from another:
`(server, id)` names a row; of two different rows with one identity the lesser by content is kept,
of too many events of one sort the first by CSeq and time.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Any, Final

from callstate.cdr import Cdr
from callstate.events import EVENT_TYPES, REQUEST, CallEvent, Clock, content_key

STATE_VERSION: Final = 2
# A call of more events is a flood: looking at all of them for each would be quadratic.
FEW_EVENTS: Final = 200

Identity = tuple[object, ...]


class Applied(Enum):
    """What applying an event did."""

    NEW = auto()
    DUPLICATE = auto()
    TIGHTER_CLOCK = auto()  # a duplicate that carries a better probe of its server's clock
    CONFLICT = auto()  # the same identity with other content: one of both is a dead letter
    DROPPED = auto()  # beyond the bound: this event or a later one is counted and not kept


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
        told: The CDR told last, None where there is none.
        uses: Names under which later uses of the Call-ID were told, see `call_uses`.
        late: Identities of events that came after the call was first told.
        events_dropped: Deliveries beyond the bound, counted and not kept.
        known: Calls that this one names and that are known to exist.
        askers: Calls that name this one and wait for an answer.
        gaps: Number of gap records whose time range touches this call.
        reclocked: How often the traffic's word on its servers' clocks was taken back.
    """

    __slots__ = (
        "_kept",
        "askers",
        "closed",
        "deadline_us",
        "dirty",
        "events",
        "events_dropped",
        "gaps",
        "known",
        "late",
        "reclocked",
        "revision",
        "told",
        "uses",
    )

    def __init__(self) -> None:
        self.events: dict[Identity, CallEvent] = {}
        self.deadline_us: int | None = None
        self.closed = False
        self.dirty = False
        self.revision = 0
        self.told: Cdr | None = None
        self.uses: tuple[str, ...] = ()
        self.late: frozenset[Identity] = frozenset()
        self.events_dropped = 0
        self.known: frozenset[str] = frozenset()
        self.askers: frozenset[str] = frozenset()
        self.gaps = 0
        self.reclocked = 0
        self._kept: dict[str, list[tuple[Any, ...]]] | None = None

    def apply(self, event: CallEvent, events_max: int) -> tuple[Applied, CallEvent | None]:
        """Adds an event; returns what it did and, for a conflict, the event that was not kept."""
        row_id = event[1]
        key: Identity = event[:2] if row_id is not None else event[:-1]  # as `identity` says
        events = self.events
        held = events.get(key)
        if held is None:
            if (len(events) + 1) * _SORTS_COUNT > events_max:
                sort_max = events_max // _SORTS_COUNT
                if len(events) >= sort_max and self._is_full(key, event, sort_max):
                    return Applied.DROPPED, None
            events[key] = event
            if self.closed:
                self.late |= {key}
            return _APPLIED
        if held[:-1] == event[:-1]:
            if not _is_tighter(event.clock, held.clock):
                return Applied.DUPLICATE, None
            self.events[key] = held._replace(clock=event.clock)
            return Applied.TIGHTER_CLOCK, None
        kept, other = sorted((held, event), key=content_key)
        self.events[key] = kept
        return Applied.CONFLICT, other

    def _is_full(self, key: Identity, event: CallEvent, sort_max: int) -> bool:
        """Whether the event is one too many of its sort; then the first ones by CSeq are kept.

        Each sort has its own share of the bound, so that a flood of one (re-INVITEs, repeated BYEs)
        displaces no other. O(log n) a delivery but for one sorting: a flood costs no more than any
        other traffic.
        """
        if self._kept is None:
            self._kept = {sort: [] for sort in _SORTS}
            for place, held in self.events.items():
                self._kept[_sort_of(held)].append((_first_key(held), place))
            for entries in self._kept.values():
                entries.sort()
        entries = self._kept[_sort_of(event)]
        entry = (_first_key(event), key)
        if len(entries) < sort_max:
            insort(entries, entry)
            return False
        self.events_dropped += 1
        if entry < entries[-1]:
            _, displaced = entries.pop()
            del self.events[displaced]
            insort(entries, entry)
            self.events[key] = event
        return True

    def next_revision(self) -> int:
        """Counts what is known, so that it is the same on every run and only ever grows."""
        return len(self.events) + len(self.known) + self.gaps + self.reclocked

    def to_wire(self) -> list[Any]:
        """A JSON-able form; `from_wire` reads it back, also that of older versions."""
        fields = self.fields()
        told, *between, events = fields[_TOLD:]
        return [
            *fields[:_TOLD],
            None if told is None else told[:],
            *between,
            [(*event[:-1], event.clock and event.clock[:]) for event in events],
        ]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> CallState:
        """Reads what `to_wire` wrote.

        Raises:
            ValueError: The version is one that this program does not know.
        """
        if wire[0] == 1:
            return cls._from_version_1(wire)
        if wire[0] != STATE_VERSION:
            raise ValueError(
                f"call state of version {wire[0]!r}, this program reads {STATE_VERSION}"
            )
        told, *between, events = wire[_TOLD:]
        return cls.of(
            (
                *wire[:_TOLD],
                None if told is None else Cdr._make(told),
                *between,
                [
                    CallEvent._make((*columns, clock and Clock._make(clock)))
                    for *columns, clock in events
                ],
            )
        )

    def fields(self) -> tuple[Any, ...]:
        """What there is to be kept, the version first; the CDR and the events as they are."""
        late = self.late
        return (
            STATE_VERSION,
            self.deadline_us,
            self.closed,
            self.dirty,
            self.revision,
            self.told,
            self.events_dropped,
            sorted(self.known),
            sorted(self.askers),
            self.gaps,
            self.reclocked,
            self.uses,
            [place for place, key in enumerate(self.events) if key in late] if late else (),
            list(self.events.values()),
        )

    @classmethod
    def of(cls, fields: Sequence[Any]) -> CallState:
        """The state of which these are the `fields`."""
        state = cls()
        (
            _,
            state.deadline_us,
            state.closed,
            state.dirty,
            state.revision,
            state.told,
            state.events_dropped,
            known,
            askers,
            state.gaps,
            state.reclocked,
            uses,
            late,
            events,
        ) = fields
        state.uses = tuple(uses)
        state.known = frozenset(known)
        state.askers = frozenset(askers)
        keys = [identity(event) for event in events]
        state.events = dict(zip(keys, events, strict=True))
        state.late = frozenset(keys[place] for place in late)
        return state

    @classmethod
    def _from_version_1(cls, wire: Sequence[Any]) -> CallState:
        """Each event had its lateness and its clock before its columns."""
        *fields, events = wire[1:]
        late = [place for place, event in enumerate(events) if event[0]]
        columns = [[*event[2:], event[1]] for event in events]
        return cls.from_wire([STATE_VERSION, *fields, (), late, columns])

    def add(self, events: Iterable[CallEvent]) -> None:
        """Takes events that are known to be distinct."""
        for event in events:
            self.events[identity(event)] = event

    def unfix_clocks(self) -> None:
        """Takes back what the traffic said of the servers' clocks."""
        for key, event in self.events.items():
            if event.clock is not None and event.clock.traffic:
                self.events[key] = event._replace(clock=None)

    def fix_clocks(self, clocks: dict[Identity, Clock]) -> None:
        """Stamps what was applied to unstamped events, so that later revisions apply the same."""
        for key, clock in clocks.items():
            self.events[key] = self.events[key]._replace(clock=clock)


def _is_tighter(again: Clock | None, held: Clock | None) -> bool:
    """A row delivered again may carry a newer probe; the tightest one counts, in any order."""
    return again is not None and (held is None or again < held)


_APPLIED: Final = (Applied.NEW, None)
_TOLD: Final = 5  # place of the CDR among the fields; the events are last
_SORTS: Final = (*sorted(EVENT_TYPES), "re-INVITE")
_SORTS_COUNT: Final = len(_SORTS)


def _sort_of(event: CallEvent) -> str:
    return "re-INVITE" if event.type == REQUEST and event.to_tag else event.type


def _first_key(event: CallEvent) -> tuple[Any, ...]:
    """Of too many events of one sort those with the least key are kept."""
    return (event.cseq, event.time_us, event.server, event.id or 0, content_key(event))
