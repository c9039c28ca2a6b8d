"""Where a worker goes on reading after a rebalance: what was fetched and left comes again."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

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
