"""How far are we: the servers' frontiers in one partition, and the watermark behind the slowest.

Owns which servers the watermark waits for. Event times never push it: a frontier moves by
heartbeats alone, which say that nothing older is to come but what commits late. Silence is measured
in the *other* servers' progress, never in wall time, so that a stalled worker sets nobody aside and
a replay decides as the live run did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from callstate.effects import SourceChanged

ACTIVE = "active"
SET_ASIDE = "set_aside"
UNTRUSTED = "untrusted"

# How far a clock that nobody has measured may be from the others' before it is not believed.
_BELIEVABLE_US = 600 * 1_000_000


@dataclass(slots=True)
class Source:
    """One server as this partition sees it.

    Attributes:
        frontier_us: Newest progress on the reference's scale; None before the first heartbeat.
        others_us: The others' greatest progress that this server has been measured against.
        silent_us: How far the others advanced since this server last did.
        set_aside: The watermark does not wait for it.
        measured: Its newest frontier was corrected by a measured offset.
        untrusted: Its clock is unmeasured and far from the others': it counts for nothing.
    """

    frontier_us: int | None = None
    others_us: int | None = None
    silent_us: int = 0
    set_aside: bool = False
    measured: bool = False
    untrusted: bool = False


class Watermark:
    """The least frontier over the servers that count, less the allowed lateness. Never retreats."""

    def __init__(
        self, servers: Iterable[str], allowed_lateness_us: int, idle_after_us: int | None
    ) -> None:
        self._lateness_us = allowed_lateness_us
        self._idle_after_us = idle_after_us
        self._configured = sorted(servers)
        self.sources: dict[str, Source] = {name: Source() for name in self._configured}
        self.time_us: int | None = None

    def heard_from(self, server: str) -> SourceChanged | None:
        """A record of any kind: who was set aside is waited for again."""
        source = self.sources.get(server)
        if source is None:
            source = self.sources[server] = Source(others_us=self._greatest(server))
        if not source.set_aside:
            return None
        source.set_aside = False
        source.silent_us = 0
        source.others_us = self._greatest(server)  # what they did meanwhile is no new silence
        return SourceChanged(server, ACTIVE, source.frontier_us)

    def heartbeat(self, server: str, frontier_us: int, *, measured: bool) -> list[SourceChanged]:
        """A server's progress; moves the watermark where this server held it.

        A frontier by a clock that nobody has measured (`measured` is False) and that is ten minutes
        or more from what the others say counts for nothing: a clock of 1970 would hold the
        watermark for ever, one far in the future would push it past every call.
        """
        back = self.heard_from(server)
        changes = [back] if back else []
        source = self.sources[server]
        was_untrusted = source.untrusted
        leap = source.frontier_us is None or abs(frontier_us - source.frontier_us) > _BELIEVABLE_US
        if measured:
            source.untrusted = False
        elif leap or source.untrusted:
            base_us = self._believed(server)
            source.untrusted = base_us is not None and abs(frontier_us - base_us) > _BELIEVABLE_US
        source.measured = measured
        if source.untrusted != was_untrusted:
            state = UNTRUSTED if source.untrusted else ACTIVE
            changes.append(SourceChanged(server, state, frontier_us))
        if source.frontier_us != frontier_us:
            source.frontier_us = frontier_us
            source.silent_us = 0
        if not source.untrusted:
            changes += self._set_aside_silent(server, frontier_us)
        self._advance()
        return changes

    def _believed(self, but: str) -> int | None:
        """What the other servers say the time is: the measured ones, else the middle of all."""
        others = [
            (source.measured, source.frontier_us)
            for name, source in self.sources.items()
            if name != but and source.frontier_us is not None and not source.untrusted
        ]
        measured = [frontier_us for known, frontier_us in others if known]
        if measured:
            return max(measured)
        unmeasured = sorted(frontier_us for _, frontier_us in others)
        return unmeasured[len(unmeasured) // 2] if len(unmeasured) > 1 else None

    def holder(self) -> tuple[str, int | None] | None:
        """Whom the watermark waits for, with its frontier; None where nobody counts."""
        waited = [
            (source.frontier_us, name)
            for name, source in self.sources.items()
            if not source.set_aside and not source.untrusted
        ]
        unheard = [name for frontier, name in waited if frontier is None]
        if unheard:
            return unheard[0], None
        if not waited:
            return None
        frontier, name = min((f, n) for f, n in waited if f is not None)
        return name, frontier

    def _greatest(self, but: str) -> int | None:
        known = [
            source.frontier_us
            for name, source in self.sources.items()
            if name != but and source.frontier_us is not None
        ]
        return max(known, default=None)

    def _set_aside_silent(self, speaker: str, frontier_us: int) -> list[SourceChanged]:
        """The speaker's progress is what the silence of the others is measured in."""
        changes: list[SourceChanged] = []
        for name, source in self.sources.items():
            if name == speaker or source.set_aside or source.untrusted:
                continue
            advance = frontier_us - (source.others_us or frontier_us)
            if source.others_us is None or advance > 0:
                source.others_us = frontier_us
            if self._idle_after_us is None or advance <= 0:
                continue
            # After an outage of everything the first to speak leaps ahead by all of it: one
            # heartbeat alone must not prove that the others are silent.
            source.silent_us += min(advance, self._idle_after_us // 4)
            if source.silent_us >= self._idle_after_us:
                source.set_aside = True
                changes.append(SourceChanged(name, SET_ASIDE, source.frontier_us))
        return changes

    def _advance(self) -> None:
        least: int | None = None
        for source in self.sources.values():
            if source.set_aside or source.untrusted:
                continue
            if source.frontier_us is None:
                return
            if least is None or source.frontier_us < least:
                least = source.frontier_us
        if least is not None:
            reached = least - self._lateness_us
            if self.time_us is None or reached > self.time_us:
                self.time_us = reached

    def snapshot(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "time_us": self.time_us,
            "configured": self._configured,
            "sources": {name: astuple(source) for name, source in self.sources.items()},
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes up where `snapshot` was made.

        Servers configured since are waited for; those that are configured no more are not, until
        they speak.
        """
        removed = set(snapshot["configured"]).difference(self._configured)
        self.time_us = snapshot["time_us"]
        for name, fields in snapshot["sources"].items():
            source = self.sources[name] = Source(*fields)
            if name in removed:
                source.set_aside = True
