"""What a partition has done since its topic began, in numbers that must add up.

`events = applied + duplicates + dropped + dead_letters`, and `opened = cdrs + hidden +
nobody_called` and what is open; kept in the partition's snapshot, so that
they move with the partition and survive restarts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from callstate.resolution import Verdict


@dataclass(slots=True)
class Counters:
    """Records by what became of them, and calls by how they were told."""

    events: int = 0
    applied: int = 0
    duplicates: int = 0
    dropped: int = 0
    dead_letters: int = 0
    heartbeats: int = 0
    opened: int = 0
    cdrs: int = 0
    hidden: int = 0
    nobody_called: int = 0
    revised: int = 0
    forgotten: int = 0
    terminations: dict[str, int] = field(default_factory=dict)

    def told(self, verdict: Verdict, hidden: str, *, again: bool) -> None:
        """A call was told, for the first time or `again`."""
        if again:
            self.revised += 1
        elif verdict.cdr is None:
            self.nobody_called += 1
        elif hidden:
            self.hidden += 1
        else:
            self.cdrs += 1
            termination = verdict.cdr.termination
            self.terminations[termination] = self.terminations.get(termination, 0) + 1

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Counters:
        """Reads what `to_json` wrote; counters that this version does not know are left out."""
        names = [each.name for each in fields(cls)]
        return cls(**{name: told[name] for name in names if name in told})
