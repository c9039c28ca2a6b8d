"""Records of a partition that are not there: what is known of them, and what is told of them.

Owns the judgement of what lies before the next record: nothing, what retention has deleted, or a
topic that was made anew. What was lost becomes a gap, as a reader makes one of lost log: it goes to
`cdr_gaps`, and calls of that time are suspect. Refuses to ask the broker: see `log_ends`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence

from callstate.envelope import Gap, Heartbeat, Record
from callstate.events import CallEvent
from stream_app.log_ends import FirstRecord, Log

log = logging.getLogger(__name__)


class Holes:
    """Of one partition of both topics.

    Attributes:
        made_anew: Topics that are not those that were read, to the position in the log that is
            gone; until the first record of the new one.
    """

    def __init__(self, partition: int, events_topic: str) -> None:
        self.made_anew: dict[str, int] = {}
        self._partition = partition
        self._events_topic = events_topic
        self._passed_over: dict[tuple[str, int], FirstRecord] = {}  # by position

    def compare(
        self,
        positions: MutableMapping[str, int],
        topic_ids: MutableMapping[str, str],
        logs: Mapping[str, Log],
    ) -> None:
        """Sets what was remembered of another log back to the beginning of this one."""
        self.made_anew = {}
        for topic, now in logs.items():
            if not now.holds(topic_ids.get(topic, ""), positions[topic]):
                self.made_anew[topic] = positions[topic]
                positions[topic] = 0
            topic_ids[topic] = now.topic_id

    def pass_over(self, topic: str, position: int, first: FirstRecord) -> None:
        """The log holds nothing from a position to its next record."""
        self._passed_over[topic, position] = first

    def next_record(self, topic: str, position: int) -> int:
        """Where the first record at a position or behind it is, as far as is known."""
        first = self._passed_over.get((topic, position))
        return position if first is None else first.offset

    def gap_before(
        self,
        topic: str,
        topic_id: str,
        position: int,
        watermark_us: int | None,
        read: Sequence[Record],
    ) -> Gap | None:
        """What was lost between a position and the records that are read now; None: nothing.

        From the watermark to the first word of what is there; offsets in the place of LSNs.
        """
        left = self.made_anew.pop(topic, None)
        first = self._passed_over.get((topic, position))
        if left is not None:
            position, to = left, f"0 {topic_id}"
            reason = f"the topic was made anew: what it held behind offset {left} may be unread"
        elif first is not None and first.deleted and position > 0:
            to = str(first.offset)
            reason = (
                f"the records from offset {position} to {to} were deleted before they were read"
            )
            self._tell_deleted(topic, position, first.offset)
        else:
            return None
        if topic != self._events_topic:
            return None  # questions between calls have no gaps
        from_us = 0 if watermark_us is None else watermark_us
        to_us = max(from_us, _begins_us(read, from_us))
        return Gap(f"{topic}:{self._partition}", str(position), to, from_us, to_us, reason)

    def forget_before(self, positions: Mapping[str, int]) -> None:
        """What lies before these positions is committed, and not read again."""
        self._passed_over = {
            (topic, position): first
            for (topic, position), first in self._passed_over.items()
            if position >= positions[topic]
        }

    def _tell_deleted(self, topic: str, position: int, first: int) -> None:
        log.error(
            "records_lost",
            extra={
                "topic": topic,
                "partition": self._partition,
                "from_offset": position,
                "to_offset": first,
                "advice": "calls of that time are marked suspect; the servers' tables may still"
                " have them: `cdrstream replay --from-servers`",
            },
        )


def _begins_us(read: Sequence[Record], otherwise_us: int) -> int:
    """When the records begin to tell: by the first heartbeat, else by the newest event."""
    newest_us = otherwise_us
    for record in read:
        if type(record) is Heartbeat:
            return record.progress_us - (record.clock.offset_us if record.clock else 0)
        if type(record) is CallEvent:
            newest_us = max(newest_us, record.time_us)
    return newest_us
