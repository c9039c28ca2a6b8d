"""Where a worker goes on reading after a rebalance: what was fetched and left comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream_app import batches
from stream_app.batches import BatchConsumer

EVENTS, REFERENCES = TP("events", 0), TP("references", 0)


class Consumer(BatchConsumer):
    def __init__(self, positions: Mapping[tuple[str, int], int]) -> None:
        intake = SimpleNamespace(positions=lambda: positions)
        self.app = SimpleNamespace(intake=intake)
        self.sought: dict[TP, int] = {}

    def assignment(self) -> set[TP]:
        return {EVENTS, REFERENCES}

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        self.sought.update(partitions)


@pytest.mark.parametrize(
    ("committed", "positions", "sought"),
    [
        pytest.param({EVENTS: 7, REFERENCES: 3}, {EVENTS: 7, REFERENCES: 3}, {}, id="all as told"),
        pytest.param({EVENTS: 7, REFERENCES: 3}, {EVENTS: 9, REFERENCES: 3}, {EVENTS: 9}, id="lag"),
        pytest.param(
            {EVENTS: 7, REFERENCES: None},
            {EVENTS: 7, REFERENCES: 0},
            {REFERENCES: 0},
            id="nothing of the topic was ever committed",
        ),
        pytest.param(
            {EVENTS: 9, REFERENCES: 3},
            {EVENTS: 7, REFERENCES: 3},
            {EVENTS: 7},
            id="the state is behind what was committed",
        ),
        pytest.param(
            {EVENTS: 9, REFERENCES: 3},
            {EVENTS: 0, REFERENCES: 0},
            {EVENTS: 0, REFERENCES: 0},
            id="the state is gone, or the topics are others",
        ),
        pytest.param(
            {EVENTS: None, REFERENCES: None},
            {EVENTS: 0, REFERENCES: 0},
            {EVENTS: 0, REFERENCES: 0},
            id="a first start",
        ),
    ],
)
async def test_where_reading_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    committed: dict[TP, int | None],
    positions: dict[TP, int],
    sought: dict[TP, int],
) -> None:
    async def told(_self: object) -> dict[TP, int | None]:
        return committed

    monkeypatch.setattr(driver.Consumer, "seek_to_committed", told)
    consumer = Consumer({(tp.topic, tp.partition): at for tp, at in positions.items()})
    await consumer.seek_to_committed()
    assert consumer.sought == sought


class Intake:
    """A worker that has read everything before the record 3."""

    async def wait_for_room(self, _seconds: float) -> bool:
        return True

    def wants(self, _topic: str) -> bool:
        return True

    def on_fetched(self, _generation: int, _records: int) -> None:
        pass

    async def on_revoked(self) -> None:
        pass

    def positions(self) -> dict[tuple[str, int], int]:
        return {EVENTS: 3}


class Client(BatchConsumer):
    """Gives each record of a log once, as the client does, two at a time and when it is told to."""

    should_stop, flow_active = False, True

    def __init__(self) -> None:
        monitor = SimpleNamespace(track_tp_end_offset=lambda *_: None)
        self.app = SimpleNamespace(intake=Intake(), consumer_generation_id=1, monitor=monitor)
        self.at = 3
        self.answers = asyncio.Event()

    async def _wait_next_records(self, timeout: float) -> Any:
        await self.answers.wait()
        begin, self.at = self.at, self.at + 2
        records = [
            SimpleNamespace(offset=at, timestamp=1, timestamp_type=0)
            for at in range(begin, self.at)
        ]
        return {EVENTS: records}, {EVENTS}

    async def fetched(self) -> list[int]:
        """Offsets of what is handed on."""
        return [record.offset async for _, told in self.getmany(1.0) for record in told.value]

    def highwater(self, tp: TP) -> int:
        return 99

    def assignment(self) -> set[TP]:
        return {EVENTS}

    async def commit(self, *_: Any, **__: Any) -> bool:
        return True

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        await asyncio.sleep(0)
        self.at = partitions[EVENTS]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    async def nothing(*_: object) -> dict[TP, int]:
        return {}

    monkeypatch.setattr(driver.Consumer, "seek_to_committed", nothing)
    monkeypatch.setattr(driver.Consumer, "on_partitions_revoked", nothing)
    monkeypatch.setattr(batches, "BUSY_WAIT_SECONDS", 0.01)
    return Client()


async def test_what_a_fetch_under_way_takes_while_partitions_move_comes_again(
    client: Client,
) -> None:
    """And nothing behind it is taken before that: the position would pass over it for good."""
    await client.seek_to_committed()
    under_way = asyncio.create_task(client.fetched())
    await asyncio.sleep(0)
    await client.on_partitions_revoked(set())
    client.app.consumer_generation_id = 2
    client.answers.set()
    assert await under_way == []
    assert client.at == 5, "the client has passed them"
    assert await client.fetched() == [], "partitions are given, and nothing has sought yet"
    assert client.at == 5
    await client.seek_to_committed()
    assert await client.fetched() == [3, 4]


async def test_a_seek_waits_for_a_fetch_under_way(client: Client) -> None:
    await client.seek_to_committed()
    under_way = asyncio.create_task(client.fetched())
    await asyncio.sleep(0)
    await client.on_partitions_revoked(set())
    seek = asyncio.create_task(client.seek_to_committed())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not seek.done()
    client.answers.set()
    assert await under_way == []
    await seek
    assert await client.fetched() == [3, 4]


async def test_a_seek_that_another_rebalance_overtook_settles_nothing(client: Client) -> None:
    client.answers.set()
    seek = asyncio.create_task(client.seek_to_committed())
    await asyncio.sleep(0)
    await client.on_partitions_revoked(set())
    await seek
    assert await client.fetched() == []
    await client.seek_to_committed()
    assert await client.fetched() == [3, 4]
