"""Whether a partition is well by how it moved in the last minutes, without thresholds to tune.

Owns the verdict over a sliding window, in the way of Burrow (linkedin/Burrow, evaluator): a
partition is ok if its lag touched the floor once within the window; else the worst that is true of
it: `rewound` (its position went back), `stopped` (nobody has reported for the whole window),
`stalled` (reported, and does not move), `slow` (moves, and the lag never shrinks), `catching up`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from ops.monitor.facts import Json

WINDOW_SECONDS: Final = 60.0
_LEAST_SECONDS: Final = 10.0  # of watching, before anything but ok is said
_FLOOR_SECONDS: Final = 3.0  # over the floor, and still at it

OK: Final = "ok"
UNKNOWN: Final = "watching"


class Look(NamedTuple):
    """One partition at one moment; `lag` is over the floor, None where it is not known."""

    at: float
    reported: bool
    position: int | None
    lag: float | None


class Movement:
    """All partitions' windows; fed by every picture."""

    def __init__(self) -> None:
        self._looks: dict[int, deque[Look]] = {}

    def verdicts(self, at: float, partitions: Sequence[Json]) -> dict[int, str]:
        """Partition to its verdict, this moment included."""
        found = {}
        for part in partitions:
            looks = self._looks.setdefault(part["number"], deque())
            looks.append(Look(at, part["worker"] is not None, part["position"], part["excess"]))
            while looks[0].at < at - WINDOW_SECONDS:
                looks.popleft()
            found[part["number"]] = judge(looks)
        return found


def judge(looks: Sequence[Look]) -> str:
    """The verdict over a window, oldest look first."""
    if any(look.reported and look.lag is not None and look.lag <= _FLOOR_SECONDS for look in looks):
        return OK
    if looks[-1].at - looks[0].at < _LEAST_SECONDS:
        return UNKNOWN
    positions = [look.position for look in looks if look.position is not None]
    if any(after < before for before, after in pairwise(positions)):
        return "rewound"
    if not any(look.reported for look in looks):
        return "stopped"
    if len(set(positions)) <= 1:
        return "stalled"
    lags = [look.lag for look in looks if look.lag is not None]
    shrinks = any(after < before for before, after in pairwise(lags))
    return "catching up" if shrinks else "slow"
