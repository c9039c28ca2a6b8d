"""What Faust fetches for standbys is not handed on: it would fill the room for good."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream_app.app import make_app
from stream_app.batches import BatchConsumer
from stream_app.settings import WorkerSettings

EVENTS, CHANGELOG = TP("events", 0), TP("group-open_calls-changelog", 1)


class Intake:
    def __init__(self) -> None:
        self.records = 0

    async def wait_for_room(self, seconds: float) -> bool:
        return True

    def wants(self, topic: str) -> bool:
        return topic == EVENTS.topic

    def on_fetched(self, generation: int, records: int) -> None:
        self.records += records


class Consumer(BatchConsumer):
    should_stop = False
    flow_active = True

    def __init__(self, intake: Intake) -> None:
        monitor = SimpleNamespace(track_tp_end_offset=lambda *_: None)
        self.app = SimpleNamespace(intake=intake, consumer_generation_id=3, monitor=monitor)

    async def _wait_next_records(self, timeout: float) -> Any:
        record = SimpleNamespace(offset=9, timestamp=1, timestamp_type=0)
        return {CHANGELOG: [record] * 5, EVENTS: [record]}, {CHANGELOG, EVENTS}

    def highwater(self, tp: TP) -> int:
        return 10


async def test_only_what_is_taken_is_counted() -> None:
    intake = Intake()
    consumer = Consumer(intake)
    consumer._settled.set()
    assert [tp async for tp, _ in consumer.getmany(1.0)] == [EVENTS]
    assert intake.records == 1


@pytest.mark.parametrize("partitions", [1, 8])
async def test_no_standbys_are_asked_for(partitions: int) -> None:
    settings = WorkerSettings(
        bootstrap_servers="127.0.0.1:1", sink_dsn="host=127.0.0.1", partitions=partitions
    )
    assert make_app(settings).conf.table_standby_replicas == 0
