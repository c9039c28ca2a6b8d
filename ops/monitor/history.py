"""The last hour in figures, for charts: one column a series, one row every few seconds.

Owns the ring and its form. A row where nothing was known holds None, so that a chart shows a hole
and not a line across it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from ops.monitor.facts import Json
from ops.monitor.statuses import Past

EVERY_SECONDS: Final = 5.0
ROWS_MAX: Final = 720  # an hour

Row = tuple[float, float | None, dict[str, tuple[float | None, float | None, float | None]]]


class History:
    """Filled by the sampler, read by the pages."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque(maxlen=ROWS_MAX)
        self._lock = threading.Lock()

    def begin_with(self, past: Iterable[Past]) -> None:
        """What the status topic still knew of the clocks when we came; of the rest, nothing."""
        buckets: dict[int, dict[str, tuple[float | None, float | None, float | None]]] = {}
        for one in past:
            bucket = buckets.setdefault(int(one.at // EVERY_SECONDS), {})
            bucket[one.server] = (one.offset, one.error, None)
        with self._lock:
            self._rows.extend(
                (number * EVERY_SECONDS, None, buckets[number]) for number in sorted(buckets)
            )

    def add(self, picture: Json) -> None:
        """Takes a picture if the last one taken is old enough."""
        at = picture["at"]
        with self._lock:
            if self._rows and at - self._rows[-1][0] < EVERY_SECONDS:
                return
            stale = not picture["sink"]["answers"]
            self._rows.append(
                (
                    at,
                    None if stale else picture["visible"]["lag"],
                    {
                        server["name"]: (server["offset"], server["error"], server["capture_lag"])
                        if server["state"] == "streaming"
                        else (None, None, None)
                        for server in picture["servers"]
                    },
                )
            )

    def columns(self, servers: Iterable[str]) -> dict[str, Any]:
        """`at`, `visible_lag`, and per server `offset`, `error` and `capture_lag`, oldest first."""
        with self._lock:
            rows = list(self._rows)
        nothing = (None, None, None)
        told: dict[str, Any] = {
            "v": 1,
            "at": [round(row[0], 3) for row in rows],
            "visible_lag": [_short(row[1]) for row in rows],
            "servers": {},
        }
        for name in servers:
            values = [row[2].get(name, nothing) for row in rows]
            told["servers"][name] = {
                key: [_short(value[index]) for value in values]
                for index, key in enumerate(("offset", "error", "capture_lag"))
            }
        return told


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
