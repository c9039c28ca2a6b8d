"""Readers in virtual time: rows of one server become records in the partitions' logs.

Owns what a reader, its link and its clock probe do to rows: stamps, heartbeats by the marker rule,
stalls, crashes and redelivery. A partition's log is ordered per reader (a producer is idempotent);
what varies is the interleaving of readers and the time of arrival.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from callstate.envelope import EVENT, HEARTBEAT, event_message, heartbeat_message
from callstate.events import Clock
from ops.simulation.servers import ClockSpec, RowWrite
from ops.simulation.world_cluster import partition_of

US = 1_000_000
_TICK_US = 400_000
_BEAT_US = 1 * US
_REST_BEAT_US = 20 * US  # when nothing is written any more
_PROBE_US = 3 * US
_PERSIST_US = 2 * US


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """What happens to one reader; times in microseconds of true time.

    Attributes:
        stalls: (from, to) in which it reads nothing.
        crashes: (at, back at).
        probe_error_us: Half-width of its clock probe; None where no probe ever succeeds.
        latency_us: How long Kafka takes to acknowledge, at most.
    """

    name: str
    clock: ClockSpec
    stalls: tuple[tuple[int, int], ...] = ()
    crashes: tuple[tuple[int, int], ...] = ()
    probe_error_us: int | None = 1_000
    latency_us: int = 30_000


class Arrival(NamedTuple):
    """A record at the end of a partition's log."""

    at_us: int
    partition: int
    kind: str
    message: dict[str, Any]


class Stamp(NamedTuple):
    """How far the probe stamped on a row was from the truth."""

    call_id: str
    off_us: int


@dataclass(slots=True)
class _Sent:
    at_us: int  # when Kafka has it
    position: int
    arrival: Arrival


@dataclass(slots=True)
class Reader:
    """One reader from the first row to the end of the simulation."""

    spec: ReaderSpec
    epoch_us: int
    writes: Sequence[RowWrite]
    partitions: int
    rng: random.Random
    busy_until_us: int
    stamps: list[Stamp] = field(default_factory=list)
    _read: int = 0  # rows sent
    _persisted: int = 0  # rows that a restart need not read again
    _progress_us: int | None = None
    _markers: deque[tuple[int, int]] = field(default_factory=deque)
    _in_flight: list[_Sent] = field(default_factory=list)
    _last_us: dict[int, int] = field(default_factory=dict)
    _probe: Clock | None = None
    _probed_us: int = 0
    _lsn: int = 0

    def run(self, end_us: int) -> Iterator[Arrival]:
        """Everything that it brings into the logs, not sorted by time."""
        now, next_beat, next_persist = self.epoch_us, self.epoch_us, self.epoch_us
        down = sorted((at, back, True) for at, back in self.spec.crashes)
        down += [(at, back, False) for at, back in self.spec.stalls]
        down.sort()
        while now < end_us:
            if down and now >= down[0][0]:
                _, back, crashed = down.pop(0)
                if back <= now:
                    continue
                if crashed:
                    yield from self._crash(now)
                else:
                    yield from self._acknowledge(back)
                now = next_beat = back
                continue
            yield from self._acknowledge(now)
            if now >= next_persist:
                self._persisted = self._acknowledged()
                next_persist = now + _PERSIST_US
            self._look_at_clock(now)
            self._sample(now)
            self._send_rows(now)
            if now >= next_beat:
                self._beat(now)
                next_beat = now + (_BEAT_US if now < self.busy_until_us else _REST_BEAT_US)
            now += _TICK_US if now < self.busy_until_us else _REST_BEAT_US // 2
        yield from self._acknowledge(end_us + 3_600 * US)

    # -- clocks ------------------------------------------------------------------------------

    def offset_us(self, true_us: int) -> int:
        """The server's clock minus true time."""
        return self.spec.clock.offset_us(true_us - self.epoch_us)

    def _look_at_clock(self, now: int) -> None:
        error_us = self.spec.probe_error_us
        if error_us is None or (self._probe is not None and now < self._probed_us + _PROBE_US):
            return
        noise = round(self.rng.uniform(-error_us, error_us))
        self._probe = Clock(False, error_us, self.offset_us(now) + noise)
        self._probed_us = now

    def _sample(self, now: int) -> None:
        """A marker: the server's clock, and how much it has committed by then."""
        committed = self._lsn
        while committed < len(self.writes) and self.writes[committed].commit_us <= now:
            committed += 1
        self._lsn = committed
        self._markers.append((committed, now + self.offset_us(now)))

    def _pass_markers(self) -> None:
        held = self._acknowledged()
        while self._markers and self._markers[0][0] <= held:
            _, time_us = self._markers.popleft()
            if self._progress_us is None or time_us > self._progress_us:
                self._progress_us = time_us

    # -- records -----------------------------------------------------------------------------

    def _send_rows(self, now: int) -> None:
        while self._read < self._lsn:
            write = self.writes[self._read]
            self._read += 1
            call_id = write.row["call_id"]
            if self._probe is not None:
                off = self._probe.offset_us - self.offset_us(write.message_us)
                self.stamps.append(Stamp(call_id, off))
            message = event_message(
                self.spec.name, f"0/{self._read:X}", None, self._probe, write.row
            )
            self._send(now, partition_of(call_id, self.partitions), EVENT, message)

    def _beat(self, now: int) -> None:
        self._pass_markers()
        if self._progress_us is None:
            return
        message = heartbeat_message(self.spec.name, self._progress_us, "0/0", self._probe)
        for partition in range(self.partitions):
            self._send(now, partition, HEARTBEAT, message)

    def _send(self, now: int, partition: int, kind: str, message: dict[str, Any]) -> None:
        at = now + self.rng.randrange(1_000, self.spec.latency_us + 1_001)
        at = max(at, self._last_us.get(partition, 0) + 1)
        self._last_us[partition] = at
        self._in_flight.append(_Sent(at, self._read, Arrival(at, partition, kind, message)))

    def _acknowledge(self, now: int) -> Iterator[Arrival]:
        waiting = []
        for sent in self._in_flight:
            if sent.at_us <= now:
                yield sent.arrival
            else:
                waiting.append(sent)
        self._in_flight = waiting

    def _acknowledged(self) -> int:
        """Rows up to which Kafka holds everything."""
        first = next((sent.position for sent in self._in_flight if _is_row(sent)), None)
        return self._read if first is None else first - 1

    def _crash(self, now: int) -> Iterator[Arrival]:
        """Of what is in flight each partition gets a prefix; the rest is sent again, and more."""
        cuts = {p: now + self.rng.randrange(self.spec.latency_us) for p in range(self.partitions)}
        for sent in self._in_flight:
            if sent.at_us <= cuts[sent.arrival.partition]:
                yield sent.arrival
        self._last_us = {p: max(at, cuts[p]) for p, at in self._last_us.items()}
        self._in_flight = []
        self._read = self._persisted
        self._markers.clear()
        self._progress_us = None
        self._probe = None


def _is_row(sent: _Sent) -> bool:
    return sent.arrival.kind == EVENT
