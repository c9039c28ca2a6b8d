"""Replays of a test's bed: jobs, plans, and what they come to.

Owns the shorthand. Refuses to expect anything: tests do. Times are seconds after `calls.DAY`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import psycopg

from ops.replay import registry, shadow
from ops.replay.driving import Verified, drive, settings_json, verify
from ops.replay.plan import Plan, Span, plan_topic
from ops.replay.registry import Replay
from ops.replay.share import Job
from tests.calls import us
from tests.streaming import Bed


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


def columns_of(bed: Bed, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return bed.query(f"SELECT {', '.join(names)} FROM cdrs ORDER BY call_id")
