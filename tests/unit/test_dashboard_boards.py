"""What is asked in the background while a broker is slow or away: nothing old is told as new."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from ops.dashboard import boards
from ops.dashboard.boards import LETTERS_SECONDS, Letter
from ops.monitor.asking import Asker, Rhythm
from ops.monitor.facts import Answer, Ends
from ops.monitor.sampler import Sampler
from ops.monitor.watched import Broker, Rules, Watched

WATCHED = Watched(
    broker=Broker({"bootstrap.servers": "127.0.0.1:1"}, "sipx.", 1),
    sink_dsn="host=127.0.0.1 port=1",
    sink_schema="public",
    server_dsns={},
    rules=Rules(("a",), 1, 5.0, 1.0, 60.0, 0.5, {"a": "cdrstream_a"}),
    sink_is_reference=True,
)


class Letters:
    """A topic of dead letters whose broker may fall silent in the midst of it."""

    def __init__(self, held: int) -> None:
        self.held = held
        self.gives = held
        self.seconds = 0.0
        self._at = 0

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, self.held

    def assign(self, places: list[Any]) -> None:
        self._at = places[0].offset

    def consume(self, *_: object, timeout: float) -> list[Any]:
        self.seconds += timeout
        told = [_message(offset) for offset in range(self._at, min(self.gives, self._at + 2))]
        self._at += len(told)
        return told

    def close(self) -> None:
        pass


def _message(offset: int) -> Any:
    told = {"offset": offset, "error": None, "headers": [("reason", b"end only")]}
    told |= {"key": b"call", "value": b"{}", "timestamp": (1, 1_000)}
    return SimpleNamespace(**{name: lambda value=value: value for name, value in told.items()})


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Letters:
    topic = Letters(5)
    monkeypatch.setattr(boards, "Consumer", lambda *_, **__: topic)
    monkeypatch.setattr(boards, "time", SimpleNamespace(monotonic=lambda: topic.seconds))
    return topic


def asker(end: list[int | None]) -> Asker[list[Letter]]:
    ask = boards._ask_letters(WATCHED, lambda: end[0])
    return Asker("letters", ask, Rhythm(LETTERS_SECONDS))


def offsets(answer: Answer[list[Letter]]) -> list[int] | None:
    return None if answer.value is None else [letter.offset for letter in answer.value]


def test_half_of_the_dead_letters_is_no_answer(letters: Letters) -> None:
    one, letters.gives = asker([5]), 3
    one.once()
    assert one.answer.value is None
    assert "not told all of them" in one.answer.error
    letters.gives = 5
    one.once()  # and half of them was not kept either
    assert offsets(one.answer) == [4, 3, 2, 1, 0]
    assert not one.answer.error


def test_while_the_broker_is_away_the_old_ones_are_not_told_as_new(letters: Letters) -> None:
    end: list[int | None] = [5]
    one = asker(end)
    one.once()
    first = one.answer
    end[0] = None
    one.once()
    assert (offsets(one.answer), one.answer.at) == (offsets(first), first.at)
    assert one.answer.error
    end[0], letters.held, letters.gives = 6, 6, 6
    one.once()
    assert offsets(one.answer) == [5, 4, 3, 2, 1, 0]


def test_they_are_read_again_only_when_there_are_more(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asker([5])
    one.once()
    monkeypatch.setattr(boards, "Consumer", lambda *_, **__: pytest.fail("asked for nothing"))
    one.once()
    assert offsets(one.answer) == [4, 3, 2, 1, 0]
    assert not one.answer.error


def test_the_end_of_a_topic_of_emptied_letters_is_its_end(letters: Letters) -> None:
    letters.consume = lambda *_, **__: [_end_of_partition()]  # type: ignore[method-assign]
    one = asker([5])
    one.once()
    assert offsets(one.answer) == []


def _end_of_partition() -> Any:
    return SimpleNamespace(error=lambda: KafkaError(KafkaError._PARTITION_EOF))


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Answer(), None),
        (Answer(Ends({}, 3, 7), 1.0), 7),
        (Answer(Ends({}, 3, 7), 1.0, "away", 2.0), None),  # what it said before is no answer
        (Answer(Ends({}), 1.0), None),
    ],
)
def test_where_dead_letters_end_is_known_while_the_broker_answers(
    answer: Answer[Ends], end: int | None
) -> None:
    sampler = Sampler(WATCHED)
    sampler._broker.answer = answer
    try:
        assert sampler.dead_letters_end == end
    finally:
        sampler._tail._consumer.close()
