"""What the sampler has been told, each with when and by whom, before anybody judges it.

Owns the shapes. Times are seconds since 1970 on this machine's clock unless a name says otherwise;
None is "not known", never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """A status record and when it arrived here (or, of those found at the start, was written)."""

    at: float
    record: Json
    before: Json | None = None  # the record before that


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the partitions of the event topic begin and end, read in one pass."""

    partitions: Mapping[int, tuple[int, int]]
    dead_letters: int | None = None  # that the topic still holds
    dead_letters_end: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A server's slot as the server sees it; `missing` where there is none."""

    wal_status: str
    active: bool = False
    unread_bytes: int | None = None
    retained_bytes: int | None = None
    safe_bytes: int | None = None
    oldest_transaction_seconds: float | None = None
    seconds_left: float | None = None  # until it is lost, by what was seen here


@dataclass(frozen=True, slots=True)
class Progress:
    """A row of `sink_progress`; times in microseconds of the reference."""

    partition: int
    next_offset: int
    watermark_us: int | None
    holder: str
    age_seconds: float
    counters: Json


@dataclass(frozen=True, slots=True)
class Gap:
    """A row of `cdr_gaps`."""

    server: str
    from_time: float | None
    to_time: float | None
    reason: str
    noticed: float


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """What the database of the CDRs says."""

    clock: float  # its own, when it was asked
    progress: tuple[Progress, ...]
    gaps: tuple[Gap, ...]
    active_calls: int
    oldest_call: float | None = None  # when it began


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The newest answer of somebody, and why there is no newer one.

    Attributes:
        value: The last answer; None where there never was one.
        at: When it came.
        error: What is said instead now; empty where it answers.
        failing_since: Since when.
    """

    value: T | None = None
    at: float | None = None
    error: str = ""
    failing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it at one moment."""

    now: float
    statuses: Mapping[str, Told]
    broker: Answer[Ends]
    sink: Answer[SinkFacts]
    slots: Mapping[str, Answer[Slot]]
    clock_ahead: float | None = None  # this machine's clock minus the reference's, seconds


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says that judging depends on."""

    servers: tuple[str, ...]
    partitions: int
    lateness_seconds: float
    heartbeat_seconds: float
    idle_after_seconds: float | None
    skew_warning_seconds: float
    slots: Mapping[str, str] = field(default_factory=dict)  # server to its slot's name

    @property
    def floor_seconds(self) -> float:
        """What the watermark always stays behind."""
        return self.lateness_seconds + self.heartbeat_seconds
