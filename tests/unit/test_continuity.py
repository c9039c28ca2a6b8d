"""A batch that does not follow on the last one is not taken: what is between is read first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from stream_app.continuity import Continuity
from stream_app.errors import BrokerUnavailable, SettingsError, StreamAppError
from stream_app.log_ends import FirstRecord
from stream_app.settings import WorkerSettings

SETTINGS = WorkerSettings(bootstrap_servers="nowhere:1", sink_dsn="nowhere", worker_id="w")


class Part:
    """What is asked of a partition's worker."""

    partition = 2

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed_over: list[tuple[str, int, FirstRecord]] = []

    def next_offset(self, _topic: str) -> int:
        return self.at

    def pass_over(self, topic: str, position: int, first: FirstRecord) -> None:
        self.passed_over.append((topic, position, first))
        self.at = first.offset


class Place:
    """A partition at the position 7, and a log that answers what it is told to."""

    def __init__(self) -> None:
        self.part: Any = Part(7)
        self.workers: dict[int, Any] = {2: self.part}
        self.first: FirstRecord | StreamAppError = FirstRecord(7, deleted=False)
        self.asked: list[tuple[str, int, int]] = []
        self.sought: list[tuple[str, int, int]] = []
        self.failures: list[StreamAppError] = []
        self.crashes: list[BaseException] = []
        self.continuity = Continuity(
            SETTINGS,
            self.workers,
            self._seek,
            self.failures.append,
            self.crashes.append,
            self._look,
        )

    def _look(self, _: WorkerSettings, topic: str, number: int, position: int) -> FirstRecord:
        self.asked.append((topic, number, position))
        if isinstance(self.first, StreamAppError):
            raise self.first
        return self.first

    async def _seek(self, topic: str, number: int, offset: int) -> None:
        self.sought.append((topic, number, offset))

    def follows(self, first: int) -> bool:
        return self.continuity.follows(self.part, "events", first)

    async def gone_back(self) -> None:
        """Until whatever was begun is over."""
        while tasks := list(self.continuity._going_back.values()):
            await asyncio.wait(tasks)
            await asyncio.sleep(0)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.continuity.close()


async def test_what_follows_or_was_seen_before_is_taken(place: Place) -> None:
    assert place.follows(7)
    assert place.follows(3)
    await place.gone_back()
    assert place.asked == []


async def test_what_was_left_is_read_again(place: Place) -> None:
    assert not place.follows(9)
    assert not place.follows(12), "the next one, fetched before the client could go back"
    await place.gone_back()
    assert place.asked == [("events", 2, 7)]
    assert place.sought == [("events", 2, 7)]
    assert place.follows(7)
    assert not place.part.passed_over


@pytest.mark.parametrize("deleted", [True, False])
async def test_only_what_the_log_does_not_hold_is_passed_over(place: Place, deleted: bool) -> None:
    place.first = FirstRecord(9, deleted)
    assert not place.follows(11)
    await place.gone_back()
    assert place.part.passed_over == [("events", 7, FirstRecord(9, deleted))]
    assert place.sought == [("events", 2, 9)]
    assert place.follows(9)


async def test_a_partition_that_went_on_meanwhile_stays_where_it_is(place: Place) -> None:
    assert not place.follows(9)
    place.part.at = 9
    await place.gone_back()
    assert place.sought == []


async def test_one_that_is_lost_meanwhile_is_not_ours_to_seek(place: Place) -> None:
    assert not place.follows(9)
    place.workers[2] = Part(0)
    await place.gone_back()
    assert place.sought == []


async def test_a_broker_that_is_away_is_asked_again_by_the_next_batch(place: Place) -> None:
    place.first = BrokerUnavailable("away")
    assert not place.follows(9)
    await place.gone_back()
    assert [str(error) for error in place.failures] == ["away"]
    assert place.sought == []
    place.first = FirstRecord(7, deleted=False)
    assert not place.follows(10)
    await place.gone_back()
    assert place.sought == [("events", 2, 7)]
    assert not place.crashes


async def test_what_nobody_expects_ends_the_worker(place: Place) -> None:
    error = SettingsError("no such thing")
    error.retry = StreamAppError.retry
    place.first = error
    assert not place.follows(9)
    await place.gone_back()
    assert place.crashes == [error]
