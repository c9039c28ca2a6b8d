"""Replays of a test's bed: jobs, plans, and what they come to.

Owns the shorthand. Refuses to expect anything: tests do. Times are seconds after `calls.DAY`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import psycopg

from callstate.envelope import event_message, heartbeat_message
from callstate.events import parse_time_us
from ops.replay import registry, shadow
from ops.replay.driving import Verified, drive, settings_json, verify
from ops.replay.plan import Plan, Span, plan_topic
from ops.replay.registry import Replay
from ops.replay.share import Job
from tests.calls import DAY_US, us
from tests.streaming import CLOCK, Bed


def plan_of(bed: Bed, start: float, end: float, margin: float = 28_800, **more: Any) -> Plan:
    """The plan for a range."""
    settings = bed.settings
    return plan_topic(
        settings.librdkafka(),
        settings.events_topic,
        settings.references_topic,
        Span(us(start), us(end)),
        round(margin * 1e6),
        **more,
    )


def job_of(bed: Bed, plan: Plan, replay_id: int | None = None, **rules: Any) -> Job:
    """A job by the bed's settings; `rules` are other settings of the resolution."""
    settings = bed.settings
    return Job(
        plan=plan,
        resolution=dataclasses.replace(settings.resolution, **rules),
        kafka=settings.librdkafka(),
        topic=settings.events_topic,
        references_topic=settings.references_topic,
        replay_id=replay_id,
        dsn=settings.sink_dsn,
        checkpoint_seconds=0.05,
    )


def connect(bed: Bed) -> psycopg.Connection[Any]:
    return shadow.connect(bed.settings.sink_dsn, "public", "test")


def begin(bed: Bed, plan: Plan, **rules: Any) -> Job:
    """A new replay, registered and with its tables."""
    resolution = dataclasses.replace(bed.settings.resolution, **rules)
    with connect(bed) as connection:
        replay = registry.add(connection, plan, settings_json(resolution))
        shadow.create(connection, replay.id)
    return job_of(bed, plan, replay.id, **rules)


def replayed(
    bed: Bed, start: float, end: float, workers: int = 1, margin: float = 28_800, **rules: Any
) -> Replay:
    """A replay of a range, run to its end."""
    return drive(begin(bed, plan_of(bed, start, end, margin), **rules), workers)


def verified(bed: Bed, start: float, end: float, workers: int = 1, **rules: Any) -> Verified:
    """A range's digests."""
    return verify(job_of(bed, plan_of(bed, start, end), **rules), workers)


def yesterday() -> float:
    """A moment that topics still keep records of, in seconds after `calls.DAY`."""
    return float(round((time.time() - 86_400) - DAY_US / 1e6))


def put_at(bed: Bed, rows: Iterable[dict[str, Any]], server: str = "a") -> None:
    """Rows as events, written to the topic when they happened."""
    for row in rows:
        _put(
            bed,
            "event",
            row["call_id"],
            event_message(server, "0/1", None, CLOCK, row),
            parse_time_us(row["event_time"]),
        )


def beat_at(bed: Bed, at: float, server: str = "a", partitions: Iterable[int] = range(4)) -> None:
    """A heartbeat to every partition, written when it was told."""
    for partition in partitions:
        message = heartbeat_message(server, us(at), "0/1", CLOCK)
        _put(bed, "heartbeat", server, message, us(at), partition=partition)


def _put(bed: Bed, kind: str, key: str, message: object, at_us: int, **more: Any) -> None:
    bed.producer.produce(
        bed.settings.events_topic,
        orjson.dumps(message),
        key.encode(),
        headers=[("kind", kind.encode()), ("server", b"a")],
        timestamp=at_us // 1_000,
        **more,
    )
    bed.producer.poll(0)


def config_of(bed: Bed, path: Path) -> Path:
    """A configuration file for the bed's topics and database."""
    settings = bed.settings
    prefix = settings.events_topic.removesuffix("call-state-events")
    lines = [
        "[kafka]",
        f"bootstrap_servers = {json.dumps(settings.bootstrap_servers)}",
        f"partitions = {settings.partitions}",
        f"topic_prefix = {json.dumps(prefix)}",
        "[sink]",
        f"dsn = {json.dumps(settings.sink_dsn)}",
        "[resolution]",
        f"servers = {json.dumps(list(settings.resolution.servers))}",
        "[worker]",
        f"group_id = {json.dumps(settings.group_id)}",
        "[replay]",
        "checkpoint_seconds = 1",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
