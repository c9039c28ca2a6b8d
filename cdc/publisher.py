"""Records into Kafka: idempotent, acknowledged by all replicas, bounded.

Owns the producer, its guarantees' options, delivery reports -> `positions`, and dead letters for
records that Kafka refuses for themselves. Refuses to know PostgreSQL and what records say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from callstate.broker_codes import ORDER_LOST
from callstate.broker_words import advice_for, short
from callstate.envelope import EVENT, KIND_HEADER, SERVER_HEADER
from callstate.topics import DEAD_LETTER_BYTES_MAX, dead_letter_topic
from cdc.errors import CdcError, KafkaFatal
from cdc.metrics import ReaderMetrics
from cdc.pgoutput import Chunk, Out
from cdc.position_store import kafka_error
from cdc.positions import Batch, Positions
from cdc.settings import ReaderSettings

logger = logging.getLogger(__name__)

# librdkafka's and our own bookkeeping of a record until it is acknowledged, on top of its bytes.
RECORD_OVERHEAD_BYTES: Final = 850
_POLL_BUSY_SECONDS: Final = 0.01
_POLL_IDLE_SECONDS: Final = 0.1
_COMPLAIN_SECONDS: Final = 30.0
_CUT_BYTES: Final = 500_000

# A record that is refused for these reasons would be refused for ever: it is a dead letter.
_POISON: Final = frozenset(
    (
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError._INVALID_ARG,
    )
)

# Defaults that an operator may change...
_DEFAULTS: Final[Mapping[str, object]] = {
    "client.id": "cdrstream-reader",
    # The reader's rest after the socket ran dry gathers rows already; under load librdkafka does,
    # with five requests under way. 2 ms cost 3 ms of the median delay and saved no CPU.
    "linger.ms": 0,
    "compression.type": "lz4",
    "batch.num.messages": 10_000,
    "batch.size": 1_000_000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
    "retry.backoff.max.ms": 500,
    "socket.keepalive.enable": True,
    "socket.nagle.disable": True,
}
# ... and what the guarantees hang on.
_FIXED: Final[Mapping[str, object]] = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",
    "message.timeout.ms": 0,  # a record waits for its broker as long as it takes
    "queue.buffering.max.messages": 2_000_000,  # the bound is `buffer_bytes_max`, kept here
    "allow.auto.create.topics": False,
    # Above what topics take as a rule: the broker judges, after compression, and a refused record
    # is still whole. It never takes others with it: librdkafka puts what does not fit into
    # `batch.size` into a batch of its own.
    "message.max.bytes": DEAD_LETTER_BYTES_MAX,
}


def producer_options(kafka: Mapping[str, object]) -> dict[str, Any]:
    """What every producer of event records is made with: idempotent, keyed as all others."""
    return {**_DEFAULTS, **kafka, **_FIXED}


# The type that the client asks for; a list of bytes is what we give.
Headers = list[tuple[str, str | bytes | None]]


class Publisher:
    """One producer and the positions of what was given to it.

    `history` is which history of the server the positions are of; None: of none yet.

    Delivery reports and errors are heard only inside `pump`, on the event loop's thread.
    """

    def __init__(self, settings: ReaderSettings, metrics: ReaderMetrics) -> None:
        self.positions = Positions()
        self.history: object = None
        self._settings = settings
        self._metrics = metrics
        self.failure: CdcError | None = None
        self._complained_at = float("-inf")
        self._handing: asyncio.Task[None] | None = None
        self._headers = headers(EVENT, settings.server)
        # What librdkafka logs comes to `_heard_error` too, where it is said once in a while.
        quiet = logging.getLogger("cdc.librdkafka")
        if quiet.level == logging.NOTSET:
            quiet.setLevel(logging.CRITICAL)
        self._producer = Producer(
            {
                **producer_options(settings.kafka),
                "queue.buffering.max.kbytes": settings.buffer_bytes_max // 1024 * 2,
                "error_cb": self._heard_error,
                "logger": quiet,
            }
        )

    async def publish(self, chunk: Chunk) -> Batch:
        """Hands over a chunk's records and waits until there is room for more.

        Cancelled or not, all of it is handed over: the position that the chunk reaches counts as
        handed over from here on, and the next session does not read it again.

        Raises:
            CdcError: The producer failed.
        """
        records = chunk.records
        await self._handed_over()
        size = chunk.size_bytes + len(records) * RECORD_OVERHEAD_BYTES if records else 0
        batch = self.positions.add(len(records), size, chunk.safe)
        if records:
            report = self._reporter(batch, chunk.committed_us)
            rest = self._produce(records, report)
            if rest is not None:
                self._handing = asyncio.ensure_future(self._produce_rest(rest, report))
                await self._handed_over()
            self.pump()
            while self.positions.unacked_bytes > self._settings.buffer_bytes_max:
                self.pump()
                await asyncio.sleep(_POLL_BUSY_SECONDS)
        return batch

    def begin_anew(self) -> None:
        """Forgets positions: those of another history say nothing about this one.

        Everything must be acknowledged.
        """
        self.positions = Positions()

    async def _handed_over(self) -> None:
        """Waits for a hand-over that found the queue full; cancelling the wait leaves it be."""
        while self._handing is not None and not self._handing.done():
            await asyncio.shield(self._handing)
        self._handing = None

    def _produce(self, records: Iterable[Out], report: Callable[..., None]) -> Iterator[Out] | None:
        """Hands records over; gives those that the full queue did not take."""
        produce, headers_ = self._producer.produce, self._headers
        waiting = iter(records)
        for topic, key, value in waiting:
            try:
                # By position (partition by key, report, no timestamp): a third cheaper.
                produce(topic, value, key, -1, report, None, 0, headers_)
            except BufferError:
                return chain(((topic, key, value),), waiting)
            except KafkaException as error:
                # Refused on the spot: the report is ours to make.
                report(error.args[0], _Refused(topic, key.encode(), value))
        return None

    async def _produce_rest(self, rest: Iterator[Out], report: Callable[..., None]) -> None:
        waiting: Iterator[Out] | None = rest
        while waiting is not None and self.failure is None:
            self._producer.poll(0)
            await asyncio.sleep(_POLL_BUSY_SECONDS)
            waiting = self._produce(waiting, report)

    def _reporter(self, batch: Batch, committed_us: int | None) -> Callable[..., None]:
        settle, failed = self.positions.settle, self._delivery_failed
        metrics, began = self._metrics, time.monotonic()

        def report(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed(error, message, batch)
                return
            batch.unacked -= 1
            if not batch.unacked:
                metrics.rows_published_total += batch.records - batch.dead
                metrics.acknowledged(time.monotonic() - began, committed_us)
                settle()

        return report

    def _delivery_failed(self, error: KafkaError, message: Any, batch: Batch) -> None:
        """A poison record becomes a dead letter; anything else ends this producer."""
        topic = message.topic()
        if error.code() in _POISON and not topic.endswith(dead_letter_topic("")):
            self._dead_letter(error, message, batch)
        else:
            self._fail(_failure(error, f"a record for {topic} was refused"))

    def _dead_letter(self, error: KafkaError, message: Any, batch: Batch) -> None:
        """Puts the record where it can be looked at; the batch waits for that instead."""
        topic, key, value = message.topic(), message.key(), message.value()
        reason = f"{error.str()} ({len(value)} bytes)"
        logger.warning("dead_letter", extra={"topic": topic, "reason": reason})
        for cut in (len(value), _CUT_BYTES):
            extra = [] if cut >= len(value) else [("truncated", str(len(value)).encode())]
            try:
                self._producer.produce(
                    dead_letter_topic(topic),
                    value[:cut],
                    key,
                    on_delivery=self._dead_letter_reporter(batch, topic, key, value, cut),
                    headers=[*self._headers, ("reason", reason.encode()), *extra],
                )
            except BufferError:
                self._fail(KafkaFatal("no room for a dead letter"))
            except KafkaException:
                continue  # too large for this producer: whole is not possible
            return
        self._fail(_failure(error, f"a dead letter of {topic} was refused"))

    def _dead_letter_reporter(
        self, batch: Batch, topic: str, key: bytes, value: bytes, sent: int
    ) -> Callable[..., None]:
        def report(error: KafkaError | None, message: Any) -> None:
            if error is None:
                self._metrics.dead_letters_total += 1
                batch.dead += 1
                batch.unacked -= 1
                if not batch.unacked:  # mostly: it was sent after all others had been
                    self._metrics.rows_published_total += batch.records - batch.dead
                    self.positions.settle()
            elif error.code() in _POISON and sent > _CUT_BYTES:
                cut = _Refused(topic, key, value[:_CUT_BYTES])
                self._dead_letter(error, cut, batch)
            else:
                self._fail(_failure(error, f"a dead letter of {topic} was refused"))

        return report

    def send(
        self,
        topic: str,
        key: str,
        value: bytes | None,
        *,
        partition: int | None = None,
        kind: str | None = None,
        done: Callable[[], None] | None = None,
    ) -> bool:
        """Sends a record of our own (heartbeat, position, status), behind what was published.

        A full queue drops it: the next one says more. What nothing says again: `deliver`.

        Args:
            topic: Where to.
            key: Its key.
            value: Its bytes; None: compaction removes the key.
            partition: A fixed partition instead of the key's.
            kind: The `kind` header; none on our own topics.
            done: Called once Kafka has it.

        Returns:
            False where it was not taken.
        """

        def report(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                self._fail(_failure(error, f"a record for {topic} was refused"))
            else:
                self._metrics.kafka_error = None
                if done is not None:
                    done()

        more: dict[str, Any] = {} if partition is None else {"partition": partition}
        if kind is not None:
            more["headers"] = headers(kind, self._settings.server)
        try:
            self._producer.produce(topic, value, key, on_delivery=report, **more)
        except BufferError:
            self._metrics.own_records_dropped_total += 1
            return False
        except KafkaException as error:
            self._fail(_failure(error.args[0], f"a record for {topic} was refused"))
            return False
        return True

    async def deliver(
        self, topic: str, key: str, value: bytes, *, partition: int, kind: str
    ) -> None:
        """Sends a record of our own that nothing says again: waits for room.

        Raises:
            CdcError: The producer failed.
        """
        while not self.send(topic, key, value, partition=partition, kind=kind):
            self.pump()
            await asyncio.sleep(_POLL_BUSY_SECONDS)

    def pump(self) -> None:
        """Hears delivery reports and errors.

        Raises:
            CdcError: The producer failed; nothing that was not acknowledged has been confirmed.
        """
        self._producer.poll(0)
        if self.failure is not None:
            raise self.failure

    async def pump_for_ever(self, after: Callable[[], None]) -> None:
        """Pumps often while something is on its way, seldom otherwise, and calls `after`."""
        while True:
            self.pump()
            after()
            busy = len(self._producer) > 0
            await asyncio.sleep(_POLL_BUSY_SECONDS if busy else _POLL_IDLE_SECONDS)

    async def drained(self, deadline: float) -> bool:
        """Waits until everything is acknowledged, or `deadline` (of time.monotonic) has come."""
        while len(self._producer) or (self._handing is not None and not self._handing.done()):
            if time.monotonic() > deadline:
                return False
            self.pump()
            await asyncio.sleep(_POLL_BUSY_SECONDS)
        return self.positions.idle

    def close(self) -> None:
        """Throws away what was not acknowledged: it was not confirmed either."""
        if self._handing is not None:
            self._handing.cancel()
        self._producer.purge()
        self._producer.poll(0)

    def _heard_error(self, error: KafkaError) -> None:
        # Broker away and the like are librdkafka's to heal; only a fatal one ends the producer.
        self._metrics.kafka_error = error.str()
        if error.fatal():
            self._fail(KafkaFatal(error.str()))
        elif time.monotonic() - self._complained_at > _COMPLAIN_SECONDS:
            self._complained_at = time.monotonic()
            said = {"server": self._settings.server, "reason": short(error.str())}
            advice = advice_for(error.str())
            logger.warning("kafka_error", extra={**said, "advice": advice} if advice else said)

    def _fail(self, error: CdcError) -> None:
        if self.failure is None:
            self.failure = error


def _failure(error: KafkaError, doing: str) -> CdcError:
    """An idempotent producer that cannot go on in order needs no operator, but a new producer."""
    if error.fatal() or error.code() in ORDER_LOST:
        return KafkaFatal(f"{doing}: {error.str()}")
    return kafka_error(error, doing)


class _Refused:
    """Stands for the message of a delivery report where librdkafka gave none."""

    def __init__(self, topic: str, key: bytes, value: bytes) -> None:
        self._parts = (topic, key, value)

    def topic(self) -> str:
        return self._parts[0]

    def key(self) -> bytes:
        return self._parts[1]

    def value(self) -> bytes:
        return self._parts[2]


def headers(kind: str, server: str) -> Headers:
    """The headers of every record of the event topics."""
    return [(KIND_HEADER, kind.encode()), (SERVER_HEADER, server.encode())]
