"""One description of the topics: whoever makes them first makes the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException

from callstate.topics import TopicKind, dead_letter_topic, topic_spec
from cdc import topics as readers
from cdc.settings import ReaderSettings
from ops import topics
from ops.config_kafka import Kafka
from ops.errors import OpsError
from ops.topics import TopicState, required
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


class _Part(NamedTuple):
    leader: int
    replicas: list[int]
    isrs: list[int]


class _Told(NamedTuple):
    partitions: dict[int, _Part]
    error: KafkaError | None = None


class _Admin:
    """What a broker may say, which no broker of one machine does."""

    def __init__(self, topics: dict[str, _Told]) -> None:
        self.topics = topics

    def list_topics(self, timeout: float) -> _Admin:
        return self

    def describe_configs(
        self, resources: list[Any], request_timeout: float
    ) -> dict[Any, Future[dict[str, Any]]]:
        told: dict[Any, Future[dict[str, Any]]] = {each: Future() for each in resources}
        for future in told.values():
            future.set_result({})
        return told


def states_of(monkeypatch: pytest.MonkeyPatch, told: _Told) -> list[TopicState]:
    kafka = Kafka()
    spec = required(kafka)[0]

    @contextmanager
    def speaking_to(*_: object) -> Iterator[_Admin]:
        try:
            yield _Admin({spec.name: told})
        except KafkaException as error:
            raise topics.broker_away(kafka, error) from error

    monkeypatch.setattr(topics, "speaking_to", speaking_to)
    return topics.states(kafka, [spec])


def test_partitions_that_nobody_leads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {0: _Part(1, [1, 2], [1, 2]), 1: _Part(-1, [1, 2], []), 2: _Part(2, [1, 2], [2])}
    (state,) = states_of(monkeypatch, _Told(parts))
    assert (state.partitions, state.leaderless, state.thin) == (3, (1,), (1, 2))


def test_an_error_is_no_topic_without_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    error = KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
    with pytest.raises(OpsError, match="not available"):
        states_of(monkeypatch, _Told({}, error))
