"""Records that are gone before they were read: what is told of them.

Owns the gap that is made of a hole in a partition's log, as a reader makes one of lost log: it goes
to `cdr_gaps`, and calls of that time are suspect. Retention deletes what a worker has not read in
time, and a topic that was made anew has lost what it held; the client jumps over either without a
word. Refuses to look for holes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from callstate.envelope import Gap, Heartbeat, Record
from callstate.events import CallEvent

log = logging.getLogger(__name__)


def deleted_unread(
    topic: str,
    partition: int,
    position: int,
    first: int,
    watermark_us: int | None,
    read: Sequence[Record],
) -> Gap:
    """The records from `position` to `first`, where `read` begins, were deleted unread."""
    log.error(
        "records_lost",
        extra={
            "topic": topic,
            "partition": partition,
            "from_offset": position,
            "to_offset": first,
            "advice": "calls of that time are marked suspect; the servers' tables may still have"
            " them: `cdrstream replay --from-servers`",
        },
    )
    reason = f"the records from offset {position} to {first} were deleted before they were read"
    return _gap(f"{topic}:{partition}", position, str(first), reason, watermark_us, read)


def made_anew(
    topic: str,
    partition: int,
    position: int,
    topic_id: str,
    watermark_us: int | None,
    read: Sequence[Record],
) -> Gap:
    """The topic is another one than that whose records were read up to `position`."""
    reason = f"the topic was made anew: what it held behind offset {position} may be unread"
    return _gap(f"{topic}:{partition}", position, f"0 {topic_id}", reason, watermark_us, read)


def _gap(
    place: str,
    position: int,
    to: str,
    reason: str,
    watermark_us: int | None,
    read: Sequence[Record],
) -> Gap:
    """From the watermark to the first word of what is there; offsets in the place of LSNs."""
    from_us = 0 if watermark_us is None else watermark_us
    to_us = max(from_us, _begins_us(read, from_us))
    return Gap(place, str(position), to, from_us, to_us, reason)


def _begins_us(read: Sequence[Record], otherwise_us: int) -> int:
    """When the records begin to tell: by the first heartbeat, else by the newest event."""
    newest_us = otherwise_us
    for record in read:
        if type(record) is Heartbeat:
            return record.progress_us - (record.clock.offset_us if record.clock else 0)
        if type(record) is CallEvent:
            newest_us = max(newest_us, record.time_us)
    return newest_us
