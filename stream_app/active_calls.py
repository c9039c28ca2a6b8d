"""Who is talking now: which calls of a partition are established, and telling the database so.

Owns what an active call is (answered, not ended, not closed by a limit) and its table. The tracker
follows the calls that change, so that nobody ever looks through all of them; the table is told of
the difference every few seconds, so that a short call, or a backlog, costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

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

_UNREAD: Final = -1  # instead of a number of events
_TOLD_AT_ONCE: Final = 1_000  # of a partition


class ActiveCall(NamedTuple):
    """One call in progress; times are ISO 8601 in UTC, corrected by the probes' offsets."""

    call_id: str
    caller_aor: str
    callee_aor: str
    recipient: str
    start_time: str
    connect_time: str


def active_call(call_id: str, state: CallState) -> ActiveCall | None:
    """The call, if somebody talks in it now."""
    if not is_established(state):
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


class ActiveCalls:
    """The established calls of one partition, and what the table has been told of them.

    Of each only its name and the number of its events are held: millions may be open. What is told
    is looked up.
    """

    def __init__(self) -> None:
        self.now: dict[str, int] = {}  # in the order in which they were answered
        self._changed: dict[str, None] = {}  # in the order in which they are told
        self._begun = False

    def note(self, call_id: str, state: CallState | None) -> bool:
        """A call has changed, or is gone (None); whether somebody talks in it."""
        if state is not None and is_established(state):
            known = len(state.events)
            if self.now.get(call_id) != known:
                self.now[call_id] = known
                self._changed[call_id] = None
            return True
        if self.now.pop(call_id, None) is not None:
            self._changed[call_id] = None
        return False

    def note_unread(self, call_ids: Iterable[str]) -> None:
        """Somebody talks in these, in the order in which they were answered; no more is known."""
        for call_id in call_ids:
            self.now[call_id] = _UNREAD

    def take_change(self, state_of: Callable[[str], CallState | None]) -> Change | None:
        """What the table is to be told next; None where it knows all.

        Of a partition with very many calls only some: they are read for it on the event loop.
        """
        clear = not self._begun
        if clear:
            self._begun = True
            self._changed = dict.fromkeys(self.now)
        elif not self._changed:
            return None
        calls: list[ActiveCall] = []
        gone: list[str] = []
        for call_id in list(self._changed):
            if len(calls) == _TOLD_AT_ONCE:
                break
            del self._changed[call_id]
            state = state_of(call_id) if call_id in self.now else None
            call = None if state is None else active_call(call_id, state)
            if call is None:
                gone.append(call_id)
            else:
                calls.append(call)
        return Change(clear, sorted(gone), sorted(calls))

    def tell_all_again(self) -> None:
        """A change could not be written: the next one says everything."""
        self._begun = False


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
