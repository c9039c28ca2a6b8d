"""Which records speak of calls that the state does not hold, or will not hold by then.

Owns looking through a batch before it is fed: calls to be looked up, how far time may go at once,
calls that must stay. Refuses to look anything up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from callstate.envelope import Heartbeat, Record, ReferenceAsked, ReferenceKnown
from callstate.events import REQUEST, CallEvent
from stream_app.call_store import PartitionCalls


def maybe_forgotten(
    read: Sequence[Record], calls: PartitionCalls, oldest_us: int | None
) -> frozenset[str]:
    """Calls that are not held though they may have been told long ago.

    A call that begins now, by a request not older than `oldest_us` (None: of any age), is none of
    them.
    """
    opened, forgotten = set(), set()
    for record in read:
        if type(record) is CallEvent:
            call_id = record.call_id
            if call_id in opened:
                continue
            begins = record.type == REQUEST and not record.to_tag
            if begins and (oldest_us is None or record.time_us >= oldest_us):
                opened.add(call_id)
            elif call_id not in calls:
                forgotten.add(call_id)
        elif (
            isinstance(record, ReferenceAsked | ReferenceKnown)
            and record.call_id not in opened
            and record.call_id not in calls
        ):
            forgotten.add(record.call_id)
    return frozenset(forgotten)


def before_a_leap(read: Sequence[Record], from_us: int | None, horizon_us: int) -> int:
    """How many of the records come before time may leap by more than told calls are held.

    What is fed at once must not tell a call, forget it and then speak of it: inside it nobody can
    be asked what was told.
    """
    for place, record in enumerate(read):
        if type(record) is Heartbeat:
            reached_us = _reached_us(record)
            if from_us is None:
                from_us = reached_us
            elif reached_us - from_us > horizon_us:
                return max(1, place)
    return len(read)


def about_to_go(read: Sequence[Record], calls: PartitionCalls) -> Iterator[str]:
    """Told calls that a batch would both let go and speak of."""
    reached_us = max((_reached_us(each) for each in read if type(each) is Heartbeat), default=0)
    if not reached_us:
        return
    spoken_of = dict.fromkeys(
        record.call_id
        for record in read
        if type(record) is CallEvent or isinstance(record, ReferenceAsked | ReferenceKnown)
    )
    for call_id in spoken_of:
        due_us = calls.deadline(call_id)
        if due_us is not None and due_us <= reached_us:
            yield call_id


def _reached_us(beat: Heartbeat) -> int:
    """How far a heartbeat can move the watermark at most."""
    return beat.progress_us - (0 if beat.clock is None else beat.clock.offset_us)
