"""Servers that write rows: their clocks, row ids, sequence numbers and habits.

Owns how a message that passes a proxy at a true time becomes a row of that server's table.
Refuses to know calls.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from callstate.events import format_time

US: Final = 1_000_000
DAY_US: Final = 86_400 * US


class Absent(StrEnum):
    """How a writer says that a column has no value."""

    EMPTY = "empty"  # '' and 0
    NULL = "null"


@dataclass(frozen=True, slots=True)
class ClockSpec:
    """A clock's error against true time: an offset, a drift from `epoch_us` on, and steps.

    Attributes:
        offset_ms: What the clock is ahead by at the epoch.
        drift_ppm: What it gains, in microseconds a second.
        steps: (seconds after the epoch, milliseconds) by which somebody sets it.
    """

    offset_ms: float = 0.0
    drift_ppm: float = 0.0
    steps: tuple[tuple[float, float], ...] = ()

    def offset_us(self, since_us: int) -> int:
        """Clock minus true time, `since_us` after the epoch."""
        total = self.offset_ms * 1_000 + self.drift_ppm * since_us / US
        total += sum(step * 1_000 for at, step in self.steps if since_us >= at * US)
        return round(total)


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server: its name in file names and configuration, and its proxy as `observer`."""

    name: str
    observer: str
    clock: ClockSpec = ClockSpec()
    absent: Absent = Absent.EMPTY
    restarts_at_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RowWrite:
    """One row written: the true time of its message and of its commit, and the row itself.

    `message_us` is what `event_time` tells by the server's clock; `commit_us` orders the table.
    """

    commit_us: int
    message_us: int
    server: int
    row: dict[str, Any]
    again: bool = False  # the same row once more, as a redelivery gives it


_COLUMNS: Final[tuple[tuple[str, Any], ...]] = (
    ("from_tag", ""),
    ("to_tag", ""),
    ("from_url", ""),
    ("to_url", ""),
    ("contact", ""),
    ("refer_to", ""),
    ("referred_by", ""),
    ("failure_status", 0),
    ("failure_reason", ""),
    ("request_uri", ""),
    ("reference", ""),
    ("caller_internal", None),
    ("callee_route", ""),
    ("branch_id", ""),
    ("via_count", 0),
)
_NOT_NULL: Final = frozenset(("from_url", "to_url"))


class Observer:
    """One proxy and its table; rows must be asked for in the order of their messages."""

    def __init__(
        self, spec: ServerSpec, epoch_us: int, rng: random.Random, *, jitter_ms: float
    ) -> None:
        self.spec = spec
        self._epoch_us = epoch_us
        self._rng = rng
        self._jitter_us = jitter_ms * 1_000
        self._last_id = 0
        self._event_seq = 0
        self._restarts = sorted(round(at * US) for at in spec.restarts_at_seconds)
        self.restarted_us: list[int] = [epoch_us]

    def reading_us(self, true_us: int) -> int:
        """What the server's clock shows at a true time."""
        return true_us + self.spec.clock.offset_us(true_us - self._epoch_us)

    def write(self, at_us: int, columns: Mapping[str, Any], server: int) -> RowWrite:
        """The row that the proxy writes for a message, with a commit shortly after."""
        rng = self._rng
        noticed = at_us + (round(rng.expovariate(1 / self._jitter_us)) if self._jitter_us else 0)
        self._count(noticed)
        self._last_id += 1
        reading = self.reading_us(noticed) // 1_000 * 1_000  # proxies write whole milliseconds
        row: dict[str, Any] = {
            "id": self._last_id,
            "observer": self.spec.observer,
            "event_seq": self._event_seq,
            "event_time": format_time(reading),
            "event_type": columns["event_type"],
            "cseq": columns["cseq"],
            "call_id": columns["call_id"],
        }
        null = self.spec.absent is Absent.NULL
        for name, empty in _COLUMNS:
            value = columns.get(name, empty)
            nothing = null and value == empty and name not in _NOT_NULL
            row[name] = None if nothing else value
        # a busy proxy's transaction now and then commits behind a younger one
        delay_ms = rng.uniform(30, 200) if rng.random() < 0.01 else rng.uniform(0.2, 4)
        return RowWrite(noticed + round(delay_ms * 1_000), noticed, server, row)

    def _count(self, at_us: int) -> None:
        """Sequence numbers also advance for messages that are not written."""
        while self._restarts and at_us - self._epoch_us >= self._restarts[0]:
            self.restarted_us.append(self._epoch_us + self._restarts.pop(0))
            self._event_seq = 0
        self._event_seq += 1 if self._rng.random() < 0.7 else self._rng.randrange(2, 5)

    def state_rows(self) -> Iterable[dict[str, Any]]:
        """The observer's rows of `observer_state_events`: 101 for each (re)start."""
        for number, at_us in enumerate(self.restarted_us, 1):
            yield {
                "id": number,
                "observer": self.spec.observer,
                "event_seq": 0,
                "event_time": format_time(self.reading_us(at_us)),
                "status": 101,
                "msg": "observer started",
            }


def installation(
    count: int,
    *,
    skew_ms: float = 0.0,
    drift_ppm: float = 0.0,
    step_ms: float = 0.0,
    step_at_seconds: float = 0.0,
    absent: str = "empty",
    seed: str | int = 0,
) -> tuple[ServerSpec, ...]:
    """`count` servers named 0, 1, ...: server 0 is the reference, the others' clocks are off.

    Offsets are drawn from +-`skew_ms` and the first other server has the whole of it, drifts from
    +-`drift_ppm`; the last server's clock is set by `step_ms` after `step_at_seconds`. `absent` is
    `empty`, `null` or `mixed` (server by server).
    """
    rng = random.Random(f"installation:{seed}")  # noqa: S311 - reproducible, not secret
    servers = []
    for number in range(count):
        if number == 0:
            clock = ClockSpec()
        else:
            offset = skew_ms * (rng.choice((-1, 1)) if number == 1 else rng.uniform(-1, 1))
            steps = ((step_at_seconds, step_ms),) if step_ms and number == count - 1 else ()
            clock = ClockSpec(round(offset), round(rng.uniform(-drift_ppm, drift_ppm), 1), steps)
        form = (Absent.EMPTY, Absent.NULL)[number % 2] if absent == "mixed" else Absent(absent)
        servers.append(ServerSpec(str(number), f"proxy{number + 1}.example.com:5060", clock, form))
    return tuple(servers)
