"""The servers' clocks as one partition comes to know them, while the stream runs.

Owns what is remembered of probes and of the traffic, when the traffic is fitted anew, and the
warnings: a clock that is off (with hysteresis, so that none flaps), one that was set, and probe and
traffic that contradict each other. Everything moves by records alone, so that a replay measures
what the live run measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from callstate import events as kinds
from callstate.clock_steps import Position, RowsOf, Step
from callstate.clocks import PROBE, TRAFFIC, Offset, OffsetAndError
from callstate.config import ResolutionConfig, to_us
from callstate.effects import ClocksDisagree, ClockStepped, Effect, ShareExchange, SkewObserved
from callstate.events import CallEvent, Clock
from callstate.evidence import Evidence
from callstate.exchanges import Exchange, exchanges
from callstate.traffic_clocks import FittedClocks, fit

_FIT_EVERY_US: Final = 10 * 1_000_000  # where events come without a probe
_CHECK_EVERY_US: Final = 900 * 1_000_000  # where the traffic only checks the probes
_CHECK_APART_US: Final = 500_000  # of one server's answers that are looked at for that
_SILENT_US: Final = 3_600 * 1_000_000  # after that a line says nothing of the present
_DRIFT_LIMIT: Final = 500e-6  # no quartz is worse; faster than that is a step
_ANSWERS: Final = (kinds.SETUP, kinds.FAILURE)
_STEP_LEAST_US: Final = 20_000
_SAME_STEP_US: Final = 60 * 1_000_000


class _Probe(NamedTuple):
    progress_us: int
    error_us: int
    offset_us: int


class LiveClocks:
    """Offsets of the servers in one partition. Implements `clocks.TrafficClocks`."""

    def __init__(self, config: ResolutionConfig) -> None:
        self._reference = config.reference
        self._servers = config.servers
        self._threshold_us = to_us(config.skew_warning_seconds)
        self._evidence = Evidence()
        self._fresh = 0
        self._unprobed = False
        self._checked_us: dict[str, int] = {}
        self._fitted: FittedClocks | None = None
        self.reshaped = False  # the newest fit has other steps than the one before
        self._shift_us = 0
        self._fitted_at_us: int | None = None
        self._probes: dict[str, _Probe] = {}
        self._off: set[str] = set()
        self._steps: list[tuple[str, int, int]] = []

    # -- what is measured ----------------------------------------------------------------------

    def note(self, event: CallEvent, others: Iterable[CallEvent]) -> list[Effect]:
        """An answer came: what its call says about the clocks of the servers that it crossed.

        Where no probe does, the other partitions hear of it, for one alone may see too few calls.
        """
        if event.clock is None:
            self._unprobed = True
        elif not self._unprobed and self._is_soon(event):
            return []
        effects: list[Effect] = []
        known = list(others)
        if not _is_seen_twice(event, known):
            return effects
        for exchange in exchanges(known):
            if self.heard(exchange) and self._unprobed and self._evidence.may_share(exchange):
                effects.append(ShareExchange(exchange))
        return effects

    def _is_soon(self, event: CallEvent) -> bool:
        """Whether the traffic said enough of a server just now: probed clocks it only checks."""
        last_us = self._checked_us.get(event.server)
        if last_us is not None and abs(event.time_us - last_us) < _CHECK_APART_US:
            return True
        self._checked_us[event.server] = event.time_us
        return False

    def heard(self, exchange: Exchange) -> bool:
        """An exchange, of this partition or another; False where it is known already."""
        fresh = self._evidence.add(exchange)
        self._fresh += fresh
        return fresh

    def probed(self, server: str, progress_us: int, clock: Clock) -> list[Effect]:
        """A heartbeat brought a probe of its server's clock."""
        effects: list[Effect] = []
        held = self._probes.get(server)
        if held is not None:
            jump_us = clock.offset_us - held.offset_us
            since_us = abs(progress_us - jump_us - held.progress_us)
            bound_us = clock.error_us + held.error_us + _STEP_LEAST_US + since_us * _DRIFT_LIMIT
            if abs(jump_us) > bound_us:
                at_us = progress_us - clock.offset_us
                effects += self._stepped(server, at_us, jump_us, PROBE)
        self._probes[server] = _Probe(progress_us, clock.error_us, clock.offset_us)
        effects += self._watch(server, Offset(clock.offset_us, clock.error_us), PROBE)
        return effects

    def advance(self, now_us: int, rows_of: RowsOf) -> list[Effect]:
        """The watermark moved: fits the traffic anew when that is due."""
        self.reshaped = False
        every_us = _FIT_EVERY_US if self._unprobed else _CHECK_EVERY_US
        due = self._fitted_at_us is None or now_us - self._fitted_at_us >= every_us
        if not self._fresh or not due:
            return []
        self._fitted_at_us = now_us
        self._fresh = 0
        found = sorted(set(self._evidence))
        base = self._base({server for x in found for server in (x.a, x.b)})
        if base is None:
            return []
        self._shift_us = self._probes[base].offset_us if base in self._probes else 0
        before = [] if self._fitted is None else self._fitted.steps
        self._fitted = fit(found, base, rows_of)
        self.reshaped = _places(before) != _places(self._fitted.steps)
        return self._told_of_fit(found)

    def contradict(self, events: Iterable[CallEvent]) -> bool:
        """Whether the newest fit says otherwise of an event than what the traffic said before."""
        for event in events:
            if event.clock is not None and event.clock.traffic:
                now = self.offset_at(event.server, event.time_us, event.id or 0)
                if now is not None:
                    bound_us = event.clock.error_us + now.error_us + _STEP_LEAST_US
                    if abs(now.offset_us - event.clock.offset_us) > bound_us:
                        return True
        return False

    def _told_of_fit(self, found: Sequence[Exchange]) -> list[Effect]:
        assert self._fitted is not None
        effects: list[Effect] = []
        for step in self._fitted.steps:
            after = self.offset_at(step.server, step.before.time_us, step.before.row_id)
            at_us = step.before.time_us - (after.offset_us if after else 0)
            effects += self._stepped(step.server, at_us, step.jump_us, TRAFFIC)
        for server in sorted({x.b for x in found} | {x.a for x in found}):
            effects += self._compare(server, found)
        return effects

    def fit_all(self, found: Sequence[Exchange], reference: str, rows_of: RowsOf) -> list[Effect]:
        """Fits all exchanges of a whole input at once, told in the clock of `reference`."""
        if not found:
            return []
        self._shift_us = 0
        self._fitted = fit(found, reference, rows_of)
        return self._told_of_fit(found)

    def _base(self, servers: set[str]) -> str | None:
        """Whose clock the fit is told in: the reference, else a probed server; None: cannot tell.

        Where neither is known the first server by name is the reference.
        """
        if self._reference is not None and self._reference in servers:
            return self._reference
        probed = [(probe.error_us, name) for name, probe in self._probes.items() if name in servers]
        if probed:
            return min(probed)[1]
        first = self._reference or min(self._servers or servers)
        return first if first in servers else None

    def _compare(self, server: str, found: Sequence[Exchange]) -> list[Effect]:
        """Warns by the traffic where no probe does, and where both contradict each other."""
        last_us = max(
            (x.a_us if x.a == server else x.b_us for x in found if server in (x.a, x.b)), default=0
        )
        traffic = self.offset_at(server, last_us, 0)
        if traffic is None:
            return []
        probe = self._probes.get(server)
        if probe is None:
            return self._watch(server, traffic, TRAFFIC)
        apart_us = abs(traffic.offset_us - probe.offset_us)
        if apart_us <= traffic.error_us + probe.error_us + _STEP_LEAST_US:
            return []
        return [
            ClocksDisagree(
                server, probe.offset_us, probe.error_us, traffic.offset_us, traffic.error_us
            )
        ]

    # -- what is told --------------------------------------------------------------------------

    def offsets(self, server: str, events: Sequence[CallEvent]) -> Sequence[OffsetAndError]:
        """The traffic's word on each event; empty where it cannot tell."""
        if self._fitted is None:
            return ()
        told = self._fitted.offsets(server, events)
        if not self._shift_us:
            return told
        return [(offset_us + self._shift_us, error_us) for offset_us, error_us in told]

    def offset_at(self, server: str, time_us: int, row_id: int) -> Offset | None:
        """The traffic's word when a server's own clock read `time_us`."""
        told = None if self._fitted is None else self._fitted.offset(server, time_us, row_id)
        return None if told is None else told._replace(offset_us=told.offset_us + self._shift_us)

    def by_traffic(self, now_us: int) -> dict[str, Offset]:
        """The traffic's word on each server's clock now, where it spoke of it within the hour."""
        fitted = self._fitted
        if fitted is None:
            return {}
        told = {
            server: self.offset_at(server, now_us, 0)
            for server in sorted(fitted.heard_since(now_us - _SILENT_US))
        }
        return {server: offset for server, offset in told.items() if offset is not None}

    def frontier(self, server: str, progress_us: int, clock: Clock | None) -> tuple[int, bool]:
        """A server's progress on the reference's scale, and whether its clock is measured."""
        if clock is not None:
            return progress_us - clock.offset_us, True
        if server == self._reference:
            return progress_us, True  # its clock is the timescale, measured or not
        traffic = self.offset_at(server, progress_us, 0)
        if traffic is not None:
            return progress_us - traffic.offset_us, True
        return progress_us, False

    def _watch(self, server: str, offset: Offset, source: str) -> list[Effect]:
        """Warns once when a clock is surely off, and once when it surely is not any more."""
        off = server in self._off
        if not off and abs(offset.offset_us) - offset.error_us > self._threshold_us:
            self._off.add(server)
        elif off and abs(offset.offset_us) + offset.error_us < self._threshold_us:
            self._off.discard(server)
        else:
            return []
        return [SkewObserved(server, offset.offset_us, offset.error_us, source, off=not off)]

    def _stepped(self, server: str, at_us: int, jump_us: int, source: str) -> list[Effect]:
        """Tells of a step once, however often it is found again."""
        for known, known_at_us, known_jump_us in self._steps:
            alike = abs(known_jump_us - jump_us) <= abs(jump_us) // 2
            if known == server and alike and abs(known_at_us - at_us) < _SAME_STEP_US:
                return []
        self._steps = [*self._steps[-99:], (server, at_us, jump_us)]
        return [ClockStepped(server, at_us, jump_us, source)]

    # -- over restarts -------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "evidence": self._evidence.snapshot(),
            "fresh": self._fresh,
            "unprobed": self._unprobed,
            "checked": self._checked_us,
            "fitted": None if self._fitted is None else self._fitted.to_json(),
            "fitted_at_us": self._fitted_at_us,
            "shift_us": self._shift_us,
            "probes": {server: list(probe) for server, probe in self._probes.items()},
            "off": sorted(self._off),
            "steps": [list(step) for step in self._steps],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes up where `snapshot` was made."""
        self._evidence.restore(snapshot["evidence"])
        self._fresh = snapshot["fresh"]
        self._unprobed = snapshot["unprobed"]
        self._checked_us = dict(snapshot.get("checked", {}))
        fitted = snapshot["fitted"]
        self._fitted = None if fitted is None else FittedClocks.from_json(fitted)
        self._fitted_at_us = snapshot["fitted_at_us"]
        self._shift_us = snapshot["shift_us"]
        self._probes = {name: _Probe._make(probe) for name, probe in snapshot["probes"].items()}
        self._off = set(snapshot["off"])
        self._steps = [(server, at_us, jump_us) for server, at_us, jump_us in snapshot["steps"]]


def _is_seen_twice(answer: CallEvent, others: Iterable[CallEvent]) -> bool:
    """Whether another server has seen the answer too: most first answers tell nothing yet."""
    cseq = answer.cseq
    for other in others:
        kind = other.type
        if kind == kinds.END:
            return True
        if (
            other.server != answer.server
            and other.cseq == cseq
            and kind in _ANSWERS
            and other.from_tag == answer.from_tag
        ):
            return True
    return False


def _places(steps: Sequence[Step]) -> list[tuple[str, Position]]:
    return [(step.server, step.before) for step in steps]
