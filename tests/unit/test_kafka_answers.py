"""What a broker says in passing is no answer: asked again, and never taken for a verdict."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from cdc import position_store
from cdc import topics as reader_topics
from cdc.errors import KafkaRefused, KafkaUnreachable
from cdc.position_store import kafka_error
from cdc.settings import ReaderSettings
from stream_app import topics as worker_topics
from stream_app.changelog import Outbox, OutRecord
from stream_app.errors import BrokerUnavailable, ProducerEnded, Retry, TopicError
from stream_app.settings import WorkerSettings

WORKER = WorkerSettings(bootstrap_servers="nowhere:1", sink_dsn="nowhere")
READER = ReaderSettings(server="a", dsn="", kafka={"bootstrap.servers": "nowhere:1"})


class Admin:
    """A broker that knows some topics and answers the making of others in one way."""

    def __init__(self, there: dict[str, Any], answer: Exception | None) -> None:
        self._there = there
        self._answer = answer

    def __call__(self, *_args: object, **_options: object) -> Admin:
        return self

    def list_topics(self, topic: str | None = None, timeout: float = 0) -> Any:
        return SimpleNamespace(topics=self._there)

    def poll(self, _seconds: float) -> int:
        return 0

    def create_topics(self, wanted: list[Any], **_options: object) -> dict[str, Future[None]]:
        future: Future[None] = Future()
        if self._answer is not None:
            future.set_exception(self._answer)
        else:
            future.result = _no_answer  # type: ignore[method-assign]
        return {wanted[0].topic: future}


def _no_answer(timeout: float | None = None) -> None:
    raise TimeoutError


def error(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(error(KafkaError.NOT_CONTROLLER), id="the controller is being chosen"),
        pytest.param(error(KafkaError.REQUEST_TIMED_OUT), id="the controller is slow"),
        pytest.param(error(KafkaError._TIMED_OUT), id="the broker went away"),
        pytest.param(None, id="no answer at all"),
    ],
)
def test_a_topic_that_cannot_be_made_now_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    """A worker ended with 2, which supervisors do not start again; a reader by a bare exception."""
    monkeypatch.setattr(worker_topics, "AdminClient", Admin({}, answer))
    with pytest.raises(BrokerUnavailable) as told:
        worker_topics.ensure_topics(WORKER)
    assert told.value.retry is Retry.TIMED
    monkeypatch.setattr(reader_topics, "AdminClient", Admin({}, answer))
    with pytest.raises(KafkaUnreachable):
        reader_topics.ensure_topics(READER, 1.0)


def test_a_topic_that_may_not_be_made_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Admin({}, error(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    monkeypatch.setattr(worker_topics, "AdminClient", refused)
    with pytest.raises(TopicError):
        worker_topics.ensure_topics(WORKER)
    monkeypatch.setattr(reader_topics, "AdminClient", refused)
    with pytest.raises(KafkaRefused):
        reader_topics.ensure_topics(READER, 1.0)


def test_a_topic_told_with_an_error_has_not_lost_its_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passing = KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
    told = SimpleNamespace(error=passing, partitions={})
    monkeypatch.setattr(worker_topics, "AdminClient", Admin({WORKER.events_topic: told}, None))
    with pytest.raises(BrokerUnavailable, match=WORKER.events_topic):
        worker_topics.ensure_topics(WORKER)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.NOT_CONTROLLER,
    ],
)
def test_a_leader_that_moves_needs_no_operator(code: int) -> None:
    assert isinstance(kafka_error(KafkaError(code), "reading"), KafkaUnreachable)


def test_positions_that_a_broker_does_not_know_yet_are_not_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader that has just made the topic, or seen it, must not begin from nothing."""
    unknown = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))

    class Broker:
        def __init__(self, _options: object) -> None:
            pass

        def list_topics(self, topic: str, timeout: float) -> Any:
            return SimpleNamespace(topics={topic: unknown})

        def close(self) -> None:
            pass

    monkeypatch.setattr(position_store, "Consumer", Broker)
    assert position_store.load({}, "positions", "a", 1.0) is None
    with pytest.raises(KafkaUnreachable):
        position_store.load({}, "positions", "a", 1.0, is_there=True)


class Ended:
    """A producer whose broker has lost the order of its records."""

    def __init__(self, code: int) -> None:
        self._code = code

    def produce(self, *_parts: object, **_options: object) -> None:
        raise error(self._code)

    def flush(self, _seconds: float) -> int:
        return 0

    def purge(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (KafkaError._FATAL, ProducerEnded),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, ProducerEnded),
        (KafkaError._TIMED_OUT, BrokerUnavailable),
    ],
)
def test_a_producer_that_has_ended_is_not_asked_for_ever(code: int, told: type[Exception]) -> None:
    """A worker tried it again and again, and waited for a broker that was there."""
    outbox = Outbox(WORKER)
    outbox.close()
    outbox._producer = Ended(code)  # type: ignore[assignment]
    with pytest.raises(told):
        outbox.send([OutRecord("topic", b"key", b"value")])


def test_only_a_new_producer_helps() -> None:
    assert ProducerEnded.retry is Retry.NEVER
