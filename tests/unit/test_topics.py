"""One description of the topics: whoever makes them first makes the same."""

from __future__ import annotations

from callstate.topics import TopicKind, dead_letter_topic, topic_spec
from cdc import topics as readers
from cdc.settings import ReaderSettings
from ops.config_kafka import Kafka
from ops.topics import required
from stream_app import topics as workers
from stream_app.settings import WorkerSettings


def test_dead_letters_are_beside_their_topic() -> None:
    assert dead_letter_topic("sipx.x") == "sipx.x.dead-letter"


def test_readers_workers_and_provision_make_the_same_topics() -> None:
    provisioned = {spec.name: spec for spec in required(Kafka(partitions=5, retention_days=3))}
    reader = ReaderSettings("a", "", {}, partitions=5, topic_retention_days=3)
    worker = WorkerSettings(
        bootstrap_servers="h:1", sink_dsn="x", partitions=5, topic_retention_days=3
    )
    made = {spec.name: spec for spec in readers.topic_specs(reader)}
    made |= {spec.name: spec for spec in workers.topic_specs(worker)}
    changelog = made.pop(worker.changelog_topic)
    assert made == provisioned
    assert changelog.kind is TopicKind.CHANGELOG


def test_what_belongs_to_a_call_is_parted_alike_and_the_rest_not_at_all() -> None:
    for kind in TopicKind:
        spec = topic_spec(kind, "t", 8)
        together = kind in (TopicKind.EVENTS, TopicKind.REFERENCES, TopicKind.CHANGELOG)
        assert spec.co_partitioned is together
        assert spec.partitions == (8 if together or kind is TopicKind.CDRS else 1)


def test_only_what_may_be_forgotten_is_deleted_by_age() -> None:
    kept = {kind for kind in TopicKind if "delete" not in topic_spec(kind, "t", 1).cleanup}
    assert kept == {TopicKind.POSITIONS, TopicKind.CHANGELOG}
    assert topic_spec(TopicKind.EVENTS, "t", 1, 2).config["retention.ms"] == "172800000"
