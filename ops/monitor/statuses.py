"""The compacted topic on which every process says what it is doing, followed by one thread.

Owns the newest record of each key and when it came. Ages are counted from arrival here, so that no
clock but our own is trusted; of what stood there before we came, from when it was written.

A client of librdkafka 2.10 and newer forgets all brokers when one of them answers that there are
none, as a broker does while its controller believes it gone (the host was paused), and may never
look for them again: https://github.com/confluentinc/librdkafka/issues/5301. So one that hears
nothing is asked whether it still knows a broker, and made anew where it does not.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ops.librdkafka import Clients, silent_log
from ops.monitor.facts import Told

_BEGINNING: Final = -2
_FORGOTTEN_SECONDS: Final = 7 * 86_400.0  # of a process that said nothing for so long
HISTORY_SECONDS: Final = 3_600.0
PAST_MAX: Final = 40_000
SILENCE_SECONDS: Final = 15.0
_ANSWER_SECONDS: Final = 2.0


class Past(NamedTuple):
    """What an older record of a reader said: when, of whom, its clock's offset and error."""

    at: float
    server: str
    offset: float
    error: float


class StatusTail:
    """Follows the topic until `stop`.

    Attributes:
        trouble: Why nothing can be read; empty where all is well. Nobody is away because of it.
        caught_up: All that stood there at the start has been read.
    """

    def __init__(self, kafka: Clients) -> None:
        self._kafka = kafka
        self._topic = kafka.topic("status")
        self._next = _BEGINNING
        self._consumer = self._at_next()
        self._told: dict[str, Told] = {}
        self._past: deque[Past] = deque(maxlen=PAST_MAX)
        self.trouble = ""
        self.caught_up = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="statuses", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and leaves the broker."""
        self._stop.set()
        self._thread.join(timeout=5)

    def newest(self) -> dict[str, Told]:
        """Key to its newest record, without those that said goodbye."""
        oldest = time.time() - _FORGOTTEN_SECONDS
        with self._lock:
            return {key: told for key, told in self._told.items() if told.at >= oldest}

    def take_past(self) -> Iterator[Past]:
        """What older records said, once. The thread may still be adding to it: a slow broker."""
        while self._past:
            yield self._past.popleft()

    def _run(self) -> None:
        while True:
            try:
                self._follow(self._consumer)
            finally:
                with contextlib.suppress(KafkaException):
                    self._consumer.close()
            if not self._renewed():
                return

    def _renewed(self) -> bool:
        """Whether there is another client; not once `stop` was called."""
        while not self._stop.is_set():
            try:
                self._consumer = self._at_next()
            except KafkaException as error:  # a certificate that is being exchanged
                self.trouble = str(error)
                self._stop.wait(1.0)
            else:
                return True
        return False

    def _at_next(self) -> Consumer:
        consumer = Consumer(
            {
                **self._kafka.client_properties(),
                "group.id": "cdrstream-status",  # asked for, and never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 200,
                "queued.max.messages.kbytes": 4_096,
                "allow.auto.create.topics": False,
            },
            logger=silent_log(),
        )
        consumer.assign([TopicPartition(self._topic, 0, self._next)])
        return consumer

    def _follow(self, consumer: Consumer) -> None:
        """Until `stop`, or until this client has lost its brokers."""
        heard_at = time.monotonic()
        while not self._stop.is_set():
            for message in consumer.consume(500, timeout=0.3):
                error = message.error()
                if error is None:
                    self._take(message)
                elif error.name() == "_PARTITION_EOF":
                    self.caught_up.set()
                else:
                    if not error.retriable():
                        self.trouble = error.str()
                    continue
                self.trouble = ""
                heard_at = time.monotonic()
            if time.monotonic() - heard_at > SILENCE_SECONDS:
                if self.trouble or not self._knows_brokers(consumer):
                    return
                heard_at = time.monotonic()  # nobody has anything to say

    def _knows_brokers(self, consumer: Consumer) -> bool:
        try:
            return bool(consumer.list_topics(self._topic, timeout=_ANSWER_SECONDS).brokers)
        except KafkaException:
            return False

    def _take(self, message: Message) -> None:
        self._next = (message.offset() or 0) + 1
        key, value = message.key(), message.value()
        if not isinstance(key, bytes):
            return
        name = key.decode(errors="replace")
        if value is None:
            with self._lock:
                self._told.pop(name, None)
            return
        try:
            record = orjson.loads(value)
        except orjson.JSONDecodeError:
            return
        if not isinstance(record, dict):
            return
        at = time.time()
        if not self.caught_up.is_set():
            at = min(at, message.timestamp()[1] / 1_000)
            if at > time.time() - HISTORY_SECONDS:
                self._remember(at, name, record)
        with self._lock:
            held = self._told.get(name)
            self._told[name] = Told(at, record, None if held is None else held.record)

    def _remember(self, at: float, name: str, record: dict[str, Any]) -> None:
        offset_us, error_us = record.get("clock_offset_us"), record.get("clock_error_us")
        if name.startswith("reader:") and isinstance(offset_us, int) and isinstance(error_us, int):
            self._past.append(
                Past(at, name.removeprefix("reader:"), offset_us / 1e6, error_us / 1e6)
            )
