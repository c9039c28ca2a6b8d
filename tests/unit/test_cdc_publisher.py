"""Handing over to a queue that is full: nothing counts that was not handed over."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from callstate.envelope import GAP
from cdc.errors import KafkaFatal
from cdc.metrics import ReaderMetrics
from cdc.pgoutput import Chunk
from cdc.publisher import Publisher, _Refused
from cdc.settings import ReaderSettings


class Queue:
    """Takes the place of the producer: so many records at a time, until they are heard."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[bytes] = []
        self._reports: list[Any] = []

    def produce(
        self, _topic: str, value: bytes, _key: str, _part: int, report: Any, *_: Any
    ) -> None:
        if len(self._reports) >= self.room:
            raise BufferError
        self.taken.append(value)
        self._reports.append(report)

    def poll(self, _seconds: float) -> int:
        return 0

    def acknowledge(self) -> None:
        reports, self._reports = self._reports, []
        for report in reports:
            report(None, None)

    def __len__(self) -> int:
        return len(self._reports)


@pytest.fixture
def publisher() -> Publisher:
    settings = ReaderSettings(server="a", dsn="", kafka={"bootstrap.servers": "127.0.0.1:1"})
    return Publisher(settings, ReaderMetrics())


def chunk(first: int, rows: int) -> Chunk:
    records = [("t", "k", b"%d" % n) for n in range(first, first + rows)]
    return Chunk(records, 10 * rows, first + rows)


async def test_a_hand_over_that_is_cancelled_goes_on(publisher: Publisher) -> None:
    queue = Queue(3)
    publisher._producer = queue  # type: ignore[assignment]
    publishing = asyncio.ensure_future(publisher.publish(chunk(0, 8)))
    while len(queue.taken) < 3:
        await asyncio.sleep(0)
    publishing.cancel()  # a session that ends
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    assert publisher.positions.handed == 8, "the next session does not read these again"
    assert publisher.positions.confirmable == 0
    following = asyncio.ensure_future(publisher.publish(chunk(8, 2)))
    while not following.done():
        queue.acknowledge()
        await asyncio.sleep(0.001)
    queue.acknowledge()
    assert queue.taken == [b"%d" % n for n in range(10)], "all of it, in order, once"
    assert publisher.positions.confirmable == 10
    assert publisher.positions.idle


class OwnRecords(Queue):
    """The same for records of the reader's own; `ended`: the producer has had its last word."""

    ended = False

    def produce(  # type: ignore[override]
        self, _topic: str, value: bytes, _key: str, *, on_delivery: Any, **_: Any
    ) -> None:
        if self.ended:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        super().produce(_topic, value, _key, -1, on_delivery)


async def test_a_gap_waits_for_room(publisher: Publisher) -> None:
    """Dropped as a heartbeat may be, nobody would ever hear of what was lost."""
    queue = OwnRecords(1)
    publisher._producer = queue  # type: ignore[assignment]
    assert publisher.send("status", "a", b"a status that waits for its broker")
    assert not publisher.send("status", "a", b"the next one")
    telling = asyncio.ensure_future(publisher.deliver("t", "a", b"gap", partition=0, kind=GAP))
    await asyncio.sleep(0.03)
    assert not telling.done()
    queue.acknowledge()
    await telling
    assert queue.taken[-1] == b"gap"


async def test_a_producer_that_has_ended_is_replaced_and_breaks_nobody(
    publisher: Publisher,
) -> None:
    """Its error went through whoever sent: the task that tells the status died of it, unseen."""
    queue = OwnRecords(9)
    publisher._producer = queue  # type: ignore[assignment]
    queue.ended = True
    assert not publisher.send("status", "a", b"status")
    with pytest.raises(KafkaFatal):
        publisher.pump()
    with pytest.raises(KafkaFatal):
        await publisher.deliver("t", "a", b"gap", partition=0, kind=GAP)


@pytest.mark.parametrize(
    "code", [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.INVALID_PRODUCER_EPOCH]
)
async def test_an_order_that_is_broken_needs_no_operator(publisher: Publisher, code: int) -> None:
    queue = OwnRecords(9)
    publisher._producer = queue  # type: ignore[assignment]
    publisher.send("status", "a", b"status")
    queue._reports.pop()(KafkaError(code), None)
    with pytest.raises(KafkaFatal):
        publisher.pump()


class Strict(Queue):
    """Refuses one record for its size, and its dead letter too until that is cut."""

    def produce(  # type: ignore[override]
        self,
        _topic: str,
        value: bytes,
        _key: object,
        _part: int = -1,
        report: Any = None,
        *_: Any,
        on_delivery: Any = None,
        **_more: Any,
    ) -> None:
        super().produce(_topic, value, "", _part, report or on_delivery)

    def answer(self) -> None:
        reports, self._reports = self._reports, []
        for value, report in zip(self.taken[-len(reports) :], reports, strict=True):
            if len(value) > 600_000:
                refused = _Refused("t", b"k", value)
                report(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), refused)
            else:
                report(None, None)


async def test_rows_are_counted_once_whatever_becomes_of_one(publisher: Publisher) -> None:
    """A batch with a dead letter in it was not counted at all, and a dead letter twice."""
    queue = Strict(99)
    publisher._producer = queue  # type: ignore[assignment]
    records = [("t", "k", b"1"), ("t", "k", b"x" * 700_000), ("t", "k", b"3")]
    await publisher.publish(Chunk(records, 700_002, 7))
    while publisher.positions.confirmable < 7:
        queue.answer()
    metrics = publisher._metrics
    assert (metrics.rows_published_total, metrics.dead_letters_total) == (2, 1)
    assert publisher.positions.idle
