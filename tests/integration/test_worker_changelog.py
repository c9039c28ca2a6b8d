"""The changelog on a real broker: acknowledged, read back to its end, whatever is left of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from stream_app.changelog import PARTITION_KEY, Outbox, OutRecord, changelog_record, restore
from stream_app.errors import TopicError
from stream_app.topics import ensure_topics, topic_specs
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def outbox(bed: Bed) -> Iterator[Outbox]:
    outbox = Outbox(bed.settings)
    yield outbox
    outbox.close()


def record(bed: Bed, partition: int, key: bytes, payload: bytes | None) -> OutRecord:
    return changelog_record(bed.settings.changelog_topic, partition, 1, key, payload)


def test_what_is_sent_is_read_back(bed: Bed, outbox: Outbox) -> None:
    sent = [record(bed, n % 4, f"call-{n}".encode(), b"x" * n) for n in range(5_000)]
    sent += [record(bed, n % 4, f"call-{n}".encode(), None) for n in range(1_000)]
    sent += [record(bed, n, PARTITION_KEY, b"state") for n in range(3)]
    assert outbox.send(sent) == len(sent)
    begun = time.monotonic()
    left: list[int] = []
    restored = restore(bed.settings, [0, 1, 2, 3], tell_left=left.append)
    print(f"read back in {time.monotonic() - begun:.2f} s")
    assert sum(len(part.calls) for part in restored.values()) == 4_000
    assert restored[1].calls["call-1001"] == b"x" * 1_001
    assert [restored[n].state for n in range(4)] == [b"state", b"state", b"state", None]
    assert restore(bed.settings, []) == {}
    assert (left[0], left[-1]) == (len(sent), 0)
    assert left == sorted(left, reverse=True)


def test_emptied_changelogs_do_not_hang(bed: Bed, outbox: Outbox) -> None:
    """Offsets without records before the end: what Faust's own recovery waits for, for ever."""
    topic = bed.settings.changelog_topic
    outbox.send([record(bed, n, b"broken", b"no state") for n in range(4)] * 10)
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    _allow_deletion(admin, topic)
    # -1: up to the end; partition 3 keeps half of its records
    asked = [TopicPartition(topic, n, -1) for n in range(3)] + [TopicPartition(topic, 3, 5)]

    def deleted() -> bool:
        try:
            for future in admin.delete_records(asked).values():
                future.result(60)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.POLICY_VIOLATION:
                raise
            return False  # the broker has not heard yet that it may
        return True

    until(deleted, "the records are deleted")
    restored = restore(bed.settings, [0, 1, 2, 3])
    assert [part.records for part in restored.values()] == [0, 0, 0, 5]
    worker = bed.worker()
    worker.wait_assigned([0, 1, 2, 3])
    bed.put_rows(call_rows("call-after", 0))
    bed.beat(60)
    bed.flush()
    until(lambda: bed.cdr_ids() == ["call-after"], "it works on")
    assert worker.stop() == 0


def _allow_deletion(admin: AdminClient, topic: str) -> None:
    entry = ConfigEntry(
        "cleanup.policy",
        "compact,delete",
        incremental_operation=AlterConfigOpType.SET,
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(60)


def test_aborted_transactions_at_the_end_do_not_hang(bed: Bed, outbox: Outbox) -> None:
    """A control record holds the last offset: no consumer ever sees it."""
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": bed.settings.bootstrap_servers, "transactional.id": "t"}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    for n in range(4):
        sent = record(bed, n, b"call", b"x")
        producer.produce(sent.topic, sent.value, sent.key, partition=n)
    producer.commit_transaction(60)
    restored = restore(bed.settings, [0, 1, 2, 3])
    assert [part.calls for part in restored.values()] == [{"call": b"x"}] * 4


def test_all_partitioners_agree(bed: Bed) -> None:
    """Events, references and changelog of a call share a partition, whoever produces them."""
    keys = [f"{n:x}-ümläut-{n}@10.0.0.{n}".encode() for n in range(200)]
    outbox = Outbox(bed.settings)
    outbox.send([OutRecord(bed.settings.references_topic, key, b"{}") for key in keys])
    outbox.close()
    for key in keys:
        bed.put("x", key.decode(), b"{}")
    bed.flush()
    partitions = list(range(4))
    choose = DefaultPartitioner()
    for topic in (bed.settings.events_topic, bed.settings.references_topic):
        found: dict[bytes, int] = {
            message.key(): message.partition() for message in bed.read_topic(topic, 4)
        }
        assert found == {key: choose(key, partitions, partitions) for key in keys}


def test_topics_are_made_once_and_checked(bed: Bed) -> None:
    assert ensure_topics(bed.settings) == []
    names = {spec.name for spec in topic_specs(bed.settings)}
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    there: Any = admin.list_topics(timeout=60).topics
    assert names <= set(there)
    assert len(there[bed.settings.changelog_topic].partitions) == 4
    import dataclasses

    with pytest.raises(TopicError, match="has 4 partitions, the settings say 3"):
        ensure_topics(dataclasses.replace(bed.settings, partitions=3))
