"""One call being played: SIP messages that pass proxies, and the rows that these write.

Owns which columns a message sets, how an INVITE, its answers, BYE and REFER travel over the
proxies of a route, and what the network does to their times. Refuses to know why a scenario sends
them, and servers' clocks, ids and sequence numbers (`servers`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.simulation.identities import Identities, Party
from ops.simulation.truth import CallTruth, Expect, TrueCdr

US = 1_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds; ranges are uniform."""

    ring: tuple[float, float] = (0.1, 25.0)
    talk_mean: float = 90.0
    talk_min: float = 1.0
    talk_max: float = 3_600.0
    abandon: tuple[float, float] = (1.5, 40.0)
    no_answer: tuple[float, float] = (30.0, 32.0)
    retry_gap: tuple[float, float] = (0.5, 40.0)
    late_ring: tuple[float, float] = (130.0, 400.0)
    slow_transfer: tuple[float, float] = (130.0, 600.0)
    network: tuple[float, float] = (0.001, 0.012)  # one hop
    retransmit_after: float = 0.5


@dataclass(frozen=True, slots=True)
class Hop:
    """One proxy on the way of a call; `authenticates` writes the request twice."""

    server: int
    authenticates: bool = False


Route = tuple[Hop, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """A message passes a proxy that writes it: the columns that the message decides."""

    at_us: int
    server: int
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One INVITE transaction: per hop the branch and the via_count that its answers repeat.

    `arrived_us` is when it has passed the innermost proxy; no answer can be earlier.
    """

    cseq: int
    arrived_us: int
    route: Route
    branches: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class World:
    """What a scenario draws from; one per call, so that calls do not depend on each other."""

    rng: random.Random
    timing: Timing
    server_count: int
    retransmit: float = 0.0
    identities: Identities = field(init=False)

    def __post_init__(self) -> None:
        self.identities = Identities(self.rng)

    def seconds(self, span: tuple[float, float]) -> int:
        """A duration of the span, in microseconds."""
        return round(self.rng.uniform(*span) * US)

    def talk(self) -> int:
        """How long two people talk, in microseconds."""
        timing = self.timing
        spread = self.rng.expovariate(1 / max(timing.talk_mean - timing.talk_min, 0.001))
        return round(min(timing.talk_min + spread, timing.talk_max) * US)

    def ring(self) -> int:
        """How long a phone rings before somebody answers, in microseconds."""
        return self.seconds(self.timing.ring)

    def network(self) -> int:
        """How long a message takes from one proxy to the next, in microseconds."""
        return self.seconds(self.timing.network)

    def servers(self, count: int) -> list[int]:
        """Distinct servers, fewer where the installation has fewer."""
        return self.rng.sample(range(self.server_count), min(count, self.server_count))

    def route(self, count: int = 1) -> list[Hop]:
        """Hops on distinct servers, the first of which may authenticate."""
        first, *others = self.servers(count)
        return [Hop(first, self.rng.random() < 0.8), *(Hop(server) for server in others)]


class CallScript:
    """The messages of one Call-ID, in true time. Times in and out are microseconds."""

    def __init__(
        self,
        world: World,
        scenario: str,
        *,
        caller: Party | None = None,
        callee: Party | None = None,
        reference: str = "",
    ) -> None:
        self.world = world
        self.scenario = scenario
        self.call_id = world.identities.call_id()
        self.caller = caller or world.identities.caller()
        self.callee = callee or world.identities.callee()
        self.reference = reference
        self.cseq = world.identities.cseq()
        self.callee_cseq = self._callee_cseq()
        self.callee_route = world.identities.route()
        self.observations: list[Observation] = []
        self.truth: CallTruth | None = None

    # -- messages ---------------------------------------------------------------------------

    def invite(self, at: int, route: Sequence[Hop], *, lost: bool = False) -> Attempt:
        """An INVITE without a To tag passes the route; each proxy writes R."""
        branches: list[tuple[str, int]] = []
        passing = at
        for position, hop in enumerate(route):
            via = 2 * position + 1
            asserted = position > 0 and self.caller.internal
            branch = self.world.identities.branch()
            branches.append((branch, via))
            twice = hop.authenticates and position == 0
            says = asserted or (self.caller.internal and not twice)
            if not lost:
                self.write_request(passing, hop.server, branch, via, internal=says)
                if twice:
                    again = passing + self.world.seconds((0.0005, 0.008))
                    self.write_request(
                        again,
                        hop.server,
                        self.world.identities.branch(),
                        via + 1,
                        internal=self.caller.internal,
                    )
                    passing = again
            passing += self.world.network()
        return Attempt(self.cseq, passing, tuple(route), tuple(branches))

    def answer(self, at: int, attempt: Attempt, *, by: Party | None = None) -> int:
        """A 200 OK passes the attempt's proxies backwards, the innermost at `at`; its time back."""
        party = by or self.callee
        last = len(attempt.route) - 1
        passing = at
        for position in range(last, -1, -1):
            hop, (branch, via) = attempt.route[position], attempt.branches[position]
            knows = position == 0 or self.world.rng.random() < 0.5
            self._write(
                passing,
                hop.server,
                "S",
                attempt.cseq,
                party,
                contact=party.contact,
                callee_route=self.callee_route if knows else "",
                branch_id=branch,
                via_count=via,
            )
            passing += self.world.network()
        return at

    def fail(
        self,
        at: int,
        attempt: Attempt,
        status: int,
        reason: str,
        *,
        by: Party | None = None,
    ) -> int:
        """A final error passes back; the time at which the outermost proxy writes it."""
        party = by or self.callee
        passing = written = at
        for position in range(len(attempt.route) - 1, -1, -1):
            hop, (branch, via) = attempt.route[position], attempt.branches[position]
            written = passing
            self._write(
                passing,
                hop.server,
                "F",
                attempt.cseq,
                party,
                failure_status=status,
                failure_reason=reason,
                branch_id=branch,
                via_count=via,
            )
            passing += self.world.network()
        return written

    def bye(
        self, at: int, route: Sequence[Hop], *, by_callee: bool, peer: Party | None = None
    ) -> int:
        """A BYE passes the proxies from its sender's side; the first one's time."""
        self._in_dialog(at, route, "E", by_callee=by_callee, peer=peer)
        return at

    def refer(
        self,
        at: int,
        route: Sequence[Hop],
        target: Party,
        *,
        by_callee: bool,
        replaces: str = "",
    ) -> int:
        """A REFER to `target` passes the proxies from its sender's side."""
        sender, other = (self.callee, self.caller) if by_callee else (self.caller, self.callee)
        inner = target.address.split("<", 1)[-1].rstrip(">")
        self._in_dialog(
            at,
            route,
            "T",
            by_callee=by_callee,
            contact=sender.contact,
            refer_to=f"<{inner}?Replaces={replaces}>" if replaces else f"<{inner}>",
            referred_by=sender.address,
            request_uri=other.uri,
        )
        return at

    def reinvite(self, at: int, hop: Hop, *, by_callee: bool, request: bool) -> None:
        """A re-INVITE within the dialog: S, and by some proxies an R *with* a To tag."""
        cseq = self._next_cseq(by_callee=by_callee)
        common = {"branch_id": self.world.identities.branch(), "via_count": 1}
        sender, other = (self.callee, self.caller) if by_callee else (self.caller, self.callee)
        if request:
            self._write(
                at,
                hop.server,
                "R",
                cseq,
                other,
                sender=sender,
                contact=sender.contact,
                caller_internal=self.caller.internal,
                reference=self.reference,
                **common,
            )
        self._write(
            at + self.world.seconds((0.01, 0.1)),
            hop.server,
            "S",
            cseq,
            other,
            sender=sender,
            contact=other.contact,
            callee_route=self.callee_route,
            **common,
        )

    def next_attempt(self) -> None:
        """The caller's next INVITE has a higher CSeq."""
        self.cseq += 1

    # -- truth ------------------------------------------------------------------------------

    def expect(
        self,
        termination: str,
        start_us: int,
        connect_us: int | None,
        end_us: int | None,
        *,
        answered_by: Party | None = None,
        expect: Expect = Expect.CDR,
        why: str = "",
        **overrides: Any,
    ) -> CallScript:
        """States what should come out; `overrides` are fields of TrueCdr."""
        party = answered_by or self.callee
        answered = connect_us is not None
        values: dict[str, Any] = {
            "call_id": self.call_id,
            "from_tag": self.caller.tag,
            "to_tag": party.tag,
            "caller_aor": self.caller.address,
            "callee_aor": self.callee.address,
            "start_us": start_us,
            "connect_us": connect_us,
            "end_us": end_us,
            "termination": termination,
            "reference": self.reference,
            "caller_contact": self.caller.contact_bare,
            "callee_contact": party.contact_bare if answered else None,
            "caller_internal": self.caller.internal,
            "callee_route": self.callee_route if answered else None,
            **overrides,
        }
        self.truth = CallTruth(self.call_id, self.scenario, expect, TrueCdr(**values), why)
        return self

    def expect_nothing(self, expect: Expect, why: str) -> CallScript:
        """States that no CDR is owed."""
        self.truth = CallTruth(self.call_id, self.scenario, expect, None, why)
        return self

    # -- rows -------------------------------------------------------------------------------

    def write_request(
        self, at: int, server: int, branch: str, via: int, *, internal: bool | None
    ) -> None:
        """One R without a To tag; for forks inside a proxy, which scenarios write one by one."""
        self._write(
            at,
            server,
            "R",
            self.cseq,
            None,
            contact=self.caller.contact,
            reference=self.reference,
            caller_internal=internal,
            branch_id=branch,
            via_count=via,
        )

    def _in_dialog(
        self,
        at: int,
        route: Sequence[Hop],
        kind: str,
        *,
        by_callee: bool,
        peer: Party | None = None,
        **columns: Any,
    ) -> None:
        cseq = self._next_cseq(by_callee=by_callee)
        callee = peer or self.callee
        sender, other = (callee, self.caller) if by_callee else (self.caller, callee)
        passing = at
        again = self.world.rng.random() < self.world.retransmit
        for hop in reversed(route) if by_callee else route:
            self._write(passing, hop.server, kind, cseq, other, sender=sender, **columns)
            if again:
                later = passing + round(self.world.timing.retransmit_after * US)
                self._write(later, hop.server, kind, cseq, other, sender=sender, **columns)
                again = False
            passing += self.world.network()

    def _next_cseq(self, *, by_callee: bool) -> int:
        if by_callee:
            self.callee_cseq += 1
            return self.callee_cseq
        self.cseq += 1
        return self.cseq

    def _callee_cseq(self) -> int:
        """The callee counts for itself: lower than, equal to or higher than the caller."""
        rng = self.world.rng
        return rng.choice((0, 0, 1, 101, max(self.cseq - 1, 0), self.cseq, rng.randrange(30_000)))

    def _write(
        self,
        at: int,
        server: int,
        kind: str,
        cseq: int,
        to: Party | None,
        *,
        sender: Party | None = None,
        **columns: Any,
    ) -> None:
        party = sender or self.caller
        row = {
            "event_type": kind,
            "cseq": cseq,
            "call_id": self.call_id,
            "from_tag": party.tag,
            "to_tag": to.tag if to else "",
            "from_url": party.header(),
            "to_url": to.header() if to else self.callee.header(tagged=False),
            **columns,
        }
        self.observations.append(Observation(at, server, row))
