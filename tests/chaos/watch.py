"""How far the sink is, all the time; and from that, how long each fault was felt.

Owns the looking, past all links. A fault is got over when every call that ended before the moment
at which the fault itself was over is in `cdrs`: the least watermark has passed that moment.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import psycopg

from tests.chaos.place import PARTITIONS

_LOOK_SECONDS = 0.2
_LEAST = (
    "SELECT count(watermark), (extract(epoch FROM min(watermark)) * 1000000)::int8"
    " FROM sink_progress WHERE topic = 'sipx.call-state-events'"
)


@dataclass(frozen=True, slots=True)
class Look:
    """At wall time `at` all calls that ended before `through` were in `cdrs`; seconds."""

    at: float
    through: float


class Watch:
    """Looks until it is stopped."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.looks: list[Look] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()

    @property
    def through(self) -> float:
        """The newest visible-through; 0 before the first."""
        return self.looks[-1].through if self.looks else 0.0

    def felt_seconds(self, over_at: float) -> float | None:
        """From a fault's end until what had ended by then was visible; None: not yet."""
        for look in self.looks:
            if look.at >= over_at and look.through >= over_at:
                return look.at - over_at
        return None

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=3) as connection:
                    while not self._stop.wait(_LOOK_SECONDS):
                        row = connection.execute(_LEAST).fetchone()
                        assert row is not None
                        if row[0] == PARTITIONS:
                            self.looks.append(Look(time.time(), row[1] / 1e6))
            except psycopg.Error:
                self._stop.wait(_LOOK_SECONDS)
