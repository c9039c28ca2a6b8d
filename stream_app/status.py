"""The worker's own status, every two seconds to the compacted topic `sipx.status`.

Owns the record's shape and its producer. Refuses to know who reads it. A status that cannot be
produced is dropped: the next one replaces it anyway.

Key `worker:<id>`; times are wall time in seconds since 1970 (`at`) and event time in microseconds
(`watermark_us`, frontiers). Unknown is null, never 0.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import orjson
from confluent_kafka import KafkaException, Producer

from stream_app.changelog import client_log
from stream_app.commits import CommitFigures
from stream_app.partition import PartitionWorker
from stream_app.settings import WorkerSettings

STATUS_VERSION = 1
_VERSION = version("cdrstream")


class StatusProducer:
    """Writes status records, without waiting and without promises."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._topic = settings.status_topic
        self._key = f"worker:{settings.worker_id}".encode()
        self._producer = Producer(
            settings.librdkafka(
                client_id=f"{settings.worker_id}-status",
                message_timeout_ms=5_000,
                queue_buffering_max_messages=100,
                linger_ms=0,
            ),
            logger=client_log,
        )

    def send(self, status: Mapping[str, Any] | None) -> None:
        """The newest status; None says that this worker is gone."""
        value = None if status is None else orjson.dumps(status)
        with contextlib.suppress(BufferError, KafkaException):
            self._producer.produce(self._topic, value, self._key)
        self._producer.poll(0)

    def close(self) -> None:
        """Waits a moment for the last one."""
        self._producer.flush(1.0)


def worker_status(
    settings: WorkerSettings,
    workers: Mapping[int, PartitionWorker],
    figures: CommitFigures,
    end_offset: Callable[[str, int], int | None],
    *,
    state: str,
    held_records: int,
    rebalances: int,
    rebalanced_lately: int,
    recovery_seconds: float,
    recovery_records: int | None,
    started_at: float,
) -> dict[str, Any]:
    """The status as a JSON-able object."""
    return {
        "v": STATUS_VERSION,
        "kind": "worker",
        "version": _VERSION,
        "id": settings.worker_id,
        "pid": os.getpid(),
        "at": time.time(),
        "started_at": started_at,
        "state": state,
        "group": settings.group_id,
        "partitions": {
            str(number): {
                **partition_status(settings, worker, end_offset),
                "written_watermark_us": figures.watermarks_us.get(number),
            }
            for number, worker in sorted(workers.items())
        },
        "open_calls": sum(len(worker.calls) for worker in workers.values()),
        "held_records": held_records,
        "held_records_max": settings.in_flight_records_max,
        "oldest_call_us": _oldest_call_us(workers),
        "rebalances": rebalances,
        "rebalanced_lately": rebalanced_lately,
        "recovery_seconds": recovery_seconds,
        "recovery_records": recovery_records,
        "sink": {
            "commits": figures.commits,
            "inserted": figures.inserted,
            "revised": figures.revised,
            "hidden": figures.hidden,
            "stale": figures.stale,
            "poison": figures.poison,
            "fenced": figures.fenced,
            "records": figures.records,
            "retries": figures.retries,
            "last_commit_seconds": figures.last_seconds,
            "failing_since": figures.failing_since,
            "error": figures.failure or None,
            "advice": figures.advice or None,
        },
    }


def _oldest_call_us(workers: Mapping[int, PartitionWorker]) -> int | None:
    begun = (worker.calls.active.oldest_us() for worker in workers.values())
    return min((each for each in begun if each is not None), default=None)


def partition_status(
    settings: WorkerSettings,
    worker: PartitionWorker,
    end_offset: Callable[[str, int], int | None],
) -> dict[str, Any]:
    """One partition: how far, who holds the watermark, what it has counted in all."""
    watermark = worker.processor.watermark
    holder = watermark.holder()
    topic = settings.events_topic
    return {
        "epoch": worker.epoch,
        "position": worker.positions[topic],
        "end_offset": end_offset(topic, worker.partition),
        "watermark_us": watermark.time_us,
        "frontiers": {
            name: {
                "frontier_us": source.frontier_us,
                "state": (
                    "set_aside"
                    if source.set_aside
                    else "untrusted"
                    if source.untrusted
                    else "never_seen"
                    if source.frontier_us is None
                    else "active"
                ),
            }
            for name, source in watermark.sources.items()
        },
        "holder": None if holder is None else holder[0],
        "traffic_clocks": {
            server: list(told) for server, told in worker.processor.traffic_clocks.items()
        },
        "open_calls": len(worker.calls),
        "counters": worker.processor.counters.to_json(),
    }
