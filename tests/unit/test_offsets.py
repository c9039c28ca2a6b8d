"""What a broker says while it does not lead a partition is never taken for an empty one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ops import offsets

PLACE = TopicPartition("events", 2)
NOT_YET = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)
REFUSED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)


class Moving:
    """A broker that says the errors it is given, one a question, before it answers."""

    def __init__(self, *errors: KafkaError | None) -> None:
        self._errors = list(errors)
        self.asked = 0

    def _error(self) -> KafkaError | None:
        self.asked += 1
        return self._errors.pop(0) if self._errors else None

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int] | None:
        error = self._error()
        if error is not None and error.code() == KafkaError.NO_ERROR:
            return None
        if error is not None:
            raise KafkaException(error)
        return 3, 10

    def offsets_for_times(self, asked: list[TopicPartition], **_: object) -> list[Any]:
        error = self._error()
        return [
            SimpleNamespace(partition=one.partition, offset=-1 if error else 7, error=error)
            for one in asked
        ]

    def list_topics(self, topic: str, **_: object) -> Any:
        told = SimpleNamespace(error=self._error(), partitions={1: None, 0: None})
        return SimpleNamespace(topics={topic: told})


def ask_ends(broker: Any) -> object:
    return offsets.ends_of(broker, PLACE, 1.0)


def ask_moment(broker: Any) -> object:
    return offsets.offsets_at(broker, "events", {2: 1_000}, 1.0)


def ask_partitions(broker: Any) -> object:
    return offsets.partitions_of(broker, "events", 1.0)


QUESTIONS = [(ask_ends, (3, 10)), (ask_moment, {2: 7}), (ask_partitions, [0, 1])]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(offsets, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))


@pytest.mark.parametrize(("ask", "answer"), QUESTIONS)
def test_a_partition_that_moves_is_asked_about_again(ask: Any, answer: object) -> None:
    broker = Moving(NOT_YET, KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
    assert ask(broker) == answer
    assert broker.asked == 3


@pytest.mark.parametrize(("ask", "_answer"), QUESTIONS)
def test_one_that_is_never_led_is_an_error_in_time(ask: Any, _answer: object) -> None:
    broker = Moving(*[NOT_YET] * 100)
    with pytest.raises(KafkaException, match="Not leader"):
        ask(broker)
    assert 5 <= broker.asked <= 20


@pytest.mark.parametrize(("ask", "_answer"), QUESTIONS)
def test_what_does_not_pass_is_said_at_once(ask: Any, _answer: object) -> None:
    broker = Moving(REFUSED)
    with pytest.raises(KafkaException, match="authorization"):
        ask(broker)
    assert broker.asked == 1


def test_no_answer_is_no_empty_partition() -> None:
    with pytest.raises(KafkaException, match=r"[Tt]imed out"):
        ask_ends(Moving(KafkaError(KafkaError.NO_ERROR)))


def test_a_moment_behind_the_last_record_has_no_offset() -> None:
    broker: Any = SimpleNamespace(
        offsets_for_times=lambda asked, **_: [
            SimpleNamespace(partition=one.partition, offset=-1, error=None) for one in asked
        ]
    )
    assert offsets.offsets_at(broker, "events", {0: 1, 1: 1}, 1.0) == {0: None, 1: None}


def test_a_topic_that_is_not_there_has_no_partitions() -> None:
    assert ask_partitions(Moving(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))) == []
