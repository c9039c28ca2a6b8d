"""Small drawings of the overview, as geometry: the clocks, and the watermarks' lanes.

Owns scales and places. Refuses to judge: states come with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from ops.monitor.facts import Json

CLOCK_WIDTH: Final = 170
LANE_WIDTH: Final = 240
_CLOCK_LEAST: Final = 1.5  # thresholds of room on each side, when all clocks are right
_LANE_LEAST_SECONDS: Final = 15.0


def clocks(servers: Sequence[Json], threshold: float) -> dict[str, Any]:
    """A dot with its error bar a server on one scale, the threshold as a band around zero.

    The dot is the probe's word, the diamond below it the traffic's.
    """
    known = [one for one in servers if one["offset"] is not None]
    told = {one["name"]: one["traffic"] for one in servers if one["traffic"] is not None}
    reach = max(
        (abs(one["offset"]) + (one["error"] or 0.0) for one in (*known, *told.values())),
        default=0.0,
    )
    limit = max(_CLOCK_LEAST * threshold, reach * 1.08, 0.001)

    def place(seconds: float) -> float:
        return round(CLOCK_WIDTH / 2 + seconds / limit * (CLOCK_WIDTH / 2 - 6), 1)

    return {
        "width": CLOCK_WIDTH,
        "zero": place(0.0),
        "band": (place(-threshold), place(threshold)),
        "limit": limit,
        "dots": {
            one["name"]: {
                "x": place(one["offset"]),
                "left": place(one["offset"] - (one["error"] or 0.0)),
                "right": place(one["offset"] + (one["error"] or 0.0)),
            }
            for one in known
        },
        "diamonds": {
            name: {
                "points": _diamond(place(one["offset"])),
                "left": place(one["offset"] - one["error"]),
                "right": place(one["offset"] + one["error"]),
            }
            for name, one in told.items()
        },
    }


def _diamond(x: float) -> str:
    """Around a place on the lower half of a clock's lane."""
    return f"{x - 4},16 {x},12 {x + 4},16 {x},20"


def lanes(partitions: Sequence[Json], floor_seconds: float, at: float) -> dict[str, Any]:
    """A bar a partition: how far its watermark is behind now, with each server's frontier."""
    lags = [part["lag"] for part in partitions if part["lag"] is not None]
    limit = _nice(max([*lags, floor_seconds * 1.5, _LANE_LEAST_SECONDS]))

    def place(seconds: float) -> float:
        return round(max(0.0, min(1.0, seconds / limit)) * LANE_WIDTH, 1)

    return {
        "width": LANE_WIDTH,
        "limit": limit,
        "floor": place(floor_seconds),
        "bars": {
            part["number"]: {
                "width": None if part["lag"] is None else place(part["lag"]),
                "ticks": [
                    {"server": one["server"], "x": place(at - one["at"])}
                    for one in part["frontiers"]
                    if one["at"] is not None
                ],
            }
            for part in partitions
        },
    }


def _nice(seconds: float) -> float:
    """The next of 1, 2, 5, 10, ... so that the scale stands still while lags move."""
    power = 10 ** math.floor(math.log10(seconds))
    for step in (1, 2, 5, 10):
        if seconds <= step * power:
            return float(step * power)
    return float(10 * power)
