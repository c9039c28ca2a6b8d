"""Who is talking now: which calls of a partition are established, and telling the database so.

Owns what an active call is (answered, not ended, not closed by a limit) and its table. The tracker
follows the calls that change and holds nothing of the others: millions may be open. The table is
told of the difference every few seconds, so that a short call, or a backlog, costs nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from callstate.call import CallState
from callstate.events import END, REQUEST, SETUP, CallEvent, format_time
from callstate.headers import address_of_record, contact_without_parameters

_OURS: Final = (
    "SELECT FROM sink_progress WHERE topic = %s AND partition = %s AND epoch = %s FOR SHARE"
)
_CLEAR: Final = "DELETE FROM active_calls WHERE partition = %s"
_REMOVE: Final = "DELETE FROM active_calls WHERE call_id = ANY(%s)"
_ADD: Final = """
INSERT INTO active_calls
    (partition, call_id, caller_aor, callee_aor, recipient, start_time, connect_time)
SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamp[],
    %s::timestamp[])
ON CONFLICT (call_id) DO UPDATE SET partition = excluded.partition,
    caller_aor = excluded.caller_aor, callee_aor = excluded.callee_aor,
    recipient = excluded.recipient, start_time = excluded.start_time,
    connect_time = excluded.connect_time
"""

NOBODY: Final = 2**63 - 1  # instead of a time, where nobody talks
_NAME_MAX: Final = 500  # characters that surely fit into the table's index
_TOLD_AT_ONCE: Final = 1_000  # of a partition
_CHANGED_MAX: Final = 10_000  # in a backlog calls come faster than they are told
_STEP_US: Final = 10_000_000  # as exact as the oldest call's begin is told


class ActiveCall(NamedTuple):
    """One call in progress; times are ISO 8601 in UTC, corrected by the probes' offsets."""

    call_id: str
    caller_aor: str
    callee_aor: str
    recipient: str
    start_time: str
    connect_time: str


def active_call(call_id: str, state: CallState) -> ActiveCall | None:
    """The call, if somebody talks in it now.

    One whose Call-ID fits into no index is left out: it would keep all others out of the table.
    """
    if len(call_id) > _NAME_MAX or not is_established(state):
        return None
    setup: CallEvent | None = None
    request: CallEvent | None = None
    ended: set[frozenset[str]] = set()
    setups: list[CallEvent] = []
    for event in state.events.values():
        kind = event.type
        if kind == SETUP:
            setups.append(event)
        elif kind == END:
            ended.add(_tags(event))
        elif (
            kind == REQUEST
            and not event.to_tag
            and (request is None or time_us(event) < time_us(request))
        ):
            request = event
    for event in setups:
        if _tags(event) in ended:
            continue
        if setup is None or time_us(event) < time_us(setup):
            setup = event
    if setup is None:
        return None
    start = request or setup
    return ActiveCall(
        call_id,
        address_of_record(start.from_url),
        address_of_record(start.to_url),
        contact_without_parameters(setup.contact) if setup.contact else "",
        format_time(time_us(start)),
        format_time(time_us(setup)),
    )


def talking_since_us(state: CallState) -> int:
    """When a call began in which somebody talks now; `NOBODY` where that is not so.

    By the event that was heard first: every change of every call asks it.
    """
    return time_us(next(iter(state.events.values()))) if is_established(state) else NOBODY


def is_established(state: CallState) -> bool:
    """Whether a dialog was set up that nobody has ended; cheap, for every change asks it."""
    if state.closed:
        return False
    answered = ended = False
    for event in state.events.values():
        answered = answered or event.type == SETUP
        ended = ended or event.type == END
    if not answered or not ended:
        return answered
    over = {_tags(event) for event in state.events.values() if event.type == END}
    return any(event.type == SETUP and _tags(event) not in over for event in state.events.values())


def _tags(event: CallEvent) -> frozenset[str]:
    return frozenset((event.from_tag, event.to_tag))


def time_us(event: CallEvent) -> int:
    """When it was, by the clock of the reference as far as a probe tells."""
    return event.time_us - (event.clock.offset_us if event.clock else 0)


class TalkingCalls(Protocol):
    """The calls of a partition as far as somebody talks in them."""

    def talking(self) -> Iterator[str]:
        """Their names, in any order; calls may change while they are told."""

    def talking_state(self, call_id: str) -> CallState | None:
        """What is known of one; it may be None where nobody talks in it."""


class ActiveCalls:
    """What the table knows of the established calls of one partition, and what it does not yet."""

    def __init__(self) -> None:
        self._changed: OrderedDict[str, None] = OrderedDict()  # in the order of telling
        self._all: Iterator[str] = iter(())  # what is left to be told of a partition taken up
        self._is_told = False
        self._begun: Counter[int] = Counter()  # how many that are talking began in which step

    def note(self, call_id: str, before_us: int, after_us: int) -> None:
        """A call changed: since when somebody talked in it, or `NOBODY`, and since when now."""
        self._changed[call_id] = None
        if len(self._changed) > _CHANGED_MAX:
            self.tell_all_again()
        begun = self._begun
        if after_us != NOBODY:
            begun[step_of(after_us)] += 1
        if before_us != NOBODY:
            step = step_of(before_us)
            begun[step] -= 1
            if begun[step] <= 0:
                del begun[step]

    def begun_in(self, steps: Counter[int]) -> None:
        """All of them were looked through: how many began in which step."""
        self._begun = steps

    def oldest_us(self) -> int | None:
        """When the oldest call began, rounded down to ten seconds; None: nobody talks."""
        oldest = min(self._begun, default=None)
        return None if oldest is None else oldest * _STEP_US

    def take_change(self, calls: TalkingCalls) -> Change | None:
        """What the table is to be told next; None where it knows all.

        Of a partition with very many calls only some: they are read for it on the event loop.
        """
        clear = not self._is_told
        if clear:
            self._is_told = True
            self._changed.clear()
            self._all = calls.talking()
        told: dict[str, ActiveCall] = {}  # one that changes while all are told comes twice
        gone: set[str] = set()
        while len(told) < _TOLD_AT_ONCE and (call_id := self._next()) is not None:
            state = calls.talking_state(call_id)
            call = None if state is None else active_call(call_id, state)
            if call is None:
                gone.add(call_id)
            else:
                told[call_id] = call
        if not (clear or told or gone):
            return None
        return Change(clear, sorted(gone), sorted(told.values()))

    def _next(self) -> str | None:
        if self._changed:
            return self._changed.popitem(last=False)[0]
        return next(self._all, None)

    def tell_all_again(self) -> None:
        """The table cannot be told of differences any more: the next change says everything."""
        self._is_told = False
        self._changed.clear()


def step_of(began_us: int) -> int:
    """The step of `ActiveCalls.begun_in` in which a call began."""
    return began_us // _STEP_US


class Change(NamedTuple):
    """What the table is to be told; `clear`: what it holds of the partition is another worker's."""

    clear: bool
    gone: Sequence[str]
    calls: Sequence[ActiveCall]


def write_active(
    connection: psycopg.Connection[Any], topic: str, changes: Mapping[tuple[int, int], Change]
) -> None:
    """Tells the table, for partition and epoch; who has lost a partition writes nothing."""
    for (partition, epoch), change in sorted(changes.items()):
        with connection.transaction():
            if not connection.execute(_OURS, (topic, partition, epoch)).rowcount:
                continue
            if change.clear:
                connection.execute(_CLEAR, (partition,))
            if change.gone:
                connection.execute(_REMOVE, (list(change.gone),))
            if change.calls:
                columns = [list(column) for column in zip(*change.calls, strict=True)]
                connection.execute(_ADD, (partition, *columns))
