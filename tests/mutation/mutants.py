"""Deliberately broken variants of the rules: each a text of the source and what replaces it.

A text must occur exactly once in `callstate/`. Where a rule has been written anew, write its mutant
anew: the point is the broken rule, not the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parents[2] / "callstate"


class Mutant(NamedTuple):
    name: str
    text: str
    instead: str

    def module(self) -> Path:
        """The file whose text it changes.

        Raises:
            LookupError: The text is in none, or more than once.
        """
        found = {path: path.read_text().count(self.text) for path in SOURCES.glob("*.py")}
        holders = [path for path, count in found.items() if count]
        if len(holders) != 1 or found[holders[0]] != 1:
            raise LookupError(f"mutant {self.name!r}: its text occurs {sum(found.values())} times")
        return holders[0]


_LOWEST = "(event.cseq, event.via_count) < (held.event.cseq, held.event.via_count)"

MUTANTS = (
    Mutant("start by the clock", _LOWEST, "item.time_us < held.time_us"),
    Mutant(
        "via order of requests reversed",
        _LOWEST,
        "(event.cseq, -event.via_count) < (held.event.cseq, -held.event.via_count)",
    ),
    Mutant(
        "start by via_count alone",
        _LOWEST,
        "event.via_count < held.event.via_count",
    ),
    Mutant(
        "caller by time only",
        "return min(firsts.values(), key=_time)",
        "return min(starts, key=_time)",
    ),
    Mutant(
        "failure without the branch rule",
        "if event.via_count == outermost and event.branch_id in branches:",
        "if branches.setdefault(event.branch_id, request):",
    ),
    Mutant(
        "failure by branch without via_count",
        "if event.via_count == outermost and event.branch_id in branches:",
        "if event.branch_id in branches:",
    ),
    Mutant(
        "the first attempt decides",
        "last = attempts[max(attempts, key=lambda key:",
        "last = attempts[min(attempts, key=lambda key:",
    ),
    Mutant(
        "the last setup connects",
        "leg.setup = min(",
        "leg.setup = max(",
    ),
    Mutant(
        "the earliest setup by the clock connects",
        """                item.event.from_tag != caller_tag,
                item.event.cseq,
                -item.event.via_count,
                item.time_us,""",
        "                item.time_us,",
    ),
    Mutant("the last end counts", "leg.end = leg.ends[0]", "leg.end = leg.ends[-1]"),
    Mutant(
        "re-INVITEs start calls",
        "starts = parts.requests or starting_reinvites(parts)",
        "starts = parts.requests + parts.reinvites",
    ),
    Mutant(
        "re-INVITEs start calls that were set up before",
        "if first_cseq.get(item.event.from_tag, item.event.cseq) >= item.event.cseq",
        "if first_cseq or True",
    ),
    Mutant(
        "any failure ends an established dialog",
        "if item.event.failure_status in _ENDS_DIALOG:",
        "if item.event.failure_status:",
    ),
    Mutant(
        "a dialog has a direction",
        "tags = frozenset((from_tag, to_tag))",
        'tags = frozenset((f"from {from_tag}", f"to {to_tag}"))',
    ),
    Mutant("the shorter leg wins", "            -length,", "            length,"),
    Mutant(
        "a failed leg may beat a completed one",
        "            self.end is None,\n",
        "",
    ),
    Mutant(
        "a transfer is a completed call",
        "return TRANSFERRED if self.transfers else COMPLETED",
        "return COMPLETED",
    ),
    Mutant("durations may be negative", "        end_us = floor\n", ""),
    Mutant(
        "a chain is hidden by any of its calls",
        "state.known.issuperset(verdict.chained)",
        "not state.known.isdisjoint(verdict.chained)",
    ),
    Mutant(
        "an end makes a call known",
        "frozenset((kinds.REQUEST, kinds.SETUP))",
        "frozenset((kinds.REQUEST, kinds.SETUP, kinds.END))",
    ),
    Mutant(
        "music on hold by any part of the header",
        "_MUSIC_ON_HOLD in user_part(callee)",
        "True",
    ),
    Mutant(
        "limits by arrival",
        "        source = self._watermark.sources.get(event.server)\n",
        "        self._watermark.heartbeat(event.server, event.time_us, measured=True)\n"
        "        source = self._watermark.sources[event.server]\n",
    ),
    Mutant(
        "late events are dropped",
        "            state.dirty = True\n            late_us = ",
        "            return\n            late_us = ",
    ),
    Mutant(
        "duplicates count",
        "return (event.server, event.id)",
        "return (event.server, event.id, id(event))",
    ),
    Mutant(
        "of two rows the greater is kept",
        "kept, other = sorted((held, event), key=content_key)",
        "other, kept = sorted((held, event), key=content_key)",
    ),
    Mutant(
        "offsets are applied the wrong way round",
        "times[index] -= offset_us",
        "times[index] += offset_us",
    ),
    Mutant(
        "the probe's offsets within their error are applied",
        "applies = mode is TimeCorrection.AUTO and not -error_us <= offset_us <= error_us",
        "applies = mode is TimeCorrection.AUTO and offset_us != 0",
    ),
    Mutant(
        "the traffic's offsets within their error are applied",
        "if not -bound_us <= offset_us <= bound_us:",
        "if offset_us:",
    ),
    Mutant(
        "a failure waits for nothing",
        "final_us: int | None = failure.time_us + _limit(config.failed_wait_seconds)",
        "final_us: int | None = failure.time_us",
    ),
    Mutant(
        "the watermark retreats",
        "if self.time_us is None or reached > self.time_us:",
        "if self.time_us is None or reached:",
    ),
    Mutant(
        "nobody is set aside",
        "if source.silent_us >= self._idle_after_us:",
        "if source.silent_us < 0:",
    ),
    Mutant(
        "an absurd clock is believed",
        "source.untrusted = base_us is not None and",
        "source.untrusted = base_us is None and",
    ),
    Mutant("a restart forgets the timers", "heapq.heapify(timers)", "timers.clear()"),
    Mutant(
        "timers far ahead are not looked up when they come near",
        "if now_us >= self._near_us:",
        "if self._near_us == _NEVER:",
    ),
    Mutant(
        "a leap fires timers before others that were due earlier",
        "else now_us + _NEAR_FOR_US",
        "else (self._near_us if self._timers else now_us) + _NEAR_FOR_US",
    ),
    Mutant(
        "people read events by the clock",
        "for before, after in pairwise(stages):",
        "for before, after in pairwise(stages[:1]):",
    ),
)
