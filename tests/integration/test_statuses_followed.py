"""Statuses and offsets are had again from a broker that said for a moment that there is none.

Its controller believes this broker gone half a second of every three, as one does whose host was
paused: then it answers that the cluster has no brokers, and librdkafka forgets the one it had.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from ops.errors import OpsError
from ops.monitor import sources, statuses
from ops.monitor.facts import Rules
from ops.monitor.statuses import StatusTail
from ops.monitor.watched import Broker, Watched
from ops.stack import Stack
from ops.stack.kafka import BrokerSpec
from tests.cli_kit import until

pytestmark = pytest.mark.timeout(300)

FORGETFUL = BrokerSpec(
    short_lived=True,
    settings={"broker.heartbeat.interval.ms": "3000", "broker.session.timeout.ms": "2500"},
)
TIMES = 4  # without a new client none of the later ones came


@pytest.fixture
def broker() -> Iterator[Broker]:
    """With the topics that are looked at."""
    with Stack([], broker=FORGETFUL) as stack:
        servers = stack.broker.bootstrap_servers
        names = ("sipx.status", "sipx.call-state-events", "sipx.call-state-events.dead-letter")
        admin = AdminClient({"bootstrap.servers": servers})
        made = admin.create_topics([NewTopic(name, 1) for name in names])
        for future in made.values():
            future.result(60)
        yield Broker({"bootstrap.servers": servers}, "sipx.", 1)


def test_what_comes_behind_it_is_heard(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "SILENCE_SECONDS", 1.0)
    over = threading.Event()

    def tell() -> None:
        producer = Producer({"log_level": 0, **broker.client_properties()})
        while not over.wait(0.1):
            producer.produce("sipx.status", orjson.dumps({"at": time.time()}), b"worker:w")
            producer.poll(0)
        producer.purge()

    def is_newer(than: float) -> bool:
        return any(told.record["at"] > than for told in tail.newest().values())

    teller = threading.Thread(target=tell)
    teller.start()
    tail = StatusTail(broker)
    tail.start()
    try:
        for _ in range(TIMES):
            until(partial(is_newer, time.time()), 60)
            time.sleep(3.0)  # the broker was thought gone in it
    finally:
        over.set()
        teller.join()
        tail.stop()


def test_offsets_are_told_again(broker: Broker) -> None:
    rules = Rules(("a",), 1, 5.0, 1.0, 60.0, 0.5)
    ask = sources.ask_broker(Watched(broker, "", "public", {}, rules, sink_is_reference=False))

    def answers() -> bool:
        try:
            return ask().partitions == {0: (0, 0)}
        except OpsError:
            return False

    for _ in range(TIMES):
        until(answers, 60)
        time.sleep(3.0)
