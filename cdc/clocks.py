"""One server's clock against the reference, kept up while its reader runs.

Owns the connection to the reference and the rhythm of probes. Refuses to let a reference that is
out of reach disturb the reading: the last offset goes on with a growing bound.
"""

from __future__ import annotations

import asyncio
import logging
import time

from callstate.events import Clock
from cdc.clock_probe import (
    DRIFT_PPM,
    ClockTracker,
    Measured,
    compare,
    read_clock,
    stopwatch_us,
)
from cdc.connect import Connection, connect_sql
from cdc.errors import CdcError
from cdc.metrics import ReaderMetrics
from cdc.settings import ReaderSettings

logger = logging.getLogger(__name__)

_REFERENCE = Clock(late=False, error_us=0, offset_us=0)


class ServerClock:
    """Gives the stamp for records; lives as long as the reader, over all its sessions."""

    def __init__(self, settings: ReaderSettings, metrics: ReaderMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tracker = ClockTracker()
        self._reference: Connection | None = None
        self._machine: object = None
        self._is_reference = settings.reference or settings.reference_dsn == settings.dsn

    def belongs_to(self, machine: object) -> None:
        """Whose clock it is: a promoted standby has one of its own, and nothing is known of it."""
        if self._machine not in (None, machine):
            self._tracker.forget()
            self._metrics.clock_offset_us = self._metrics.clock_error_us = None
        self._machine = machine

    def stamp(self) -> Clock | None:
        """What is known of the offset until the next heartbeat; None where nothing is."""
        until_us = stopwatch_us() + round(self._settings.heartbeat_seconds * 1_000_000)
        clock = _REFERENCE if self._is_reference else self._tracker.clock(until_us)
        if clock is not None:
            self._metrics.clock_offset_us = clock.offset_us
            self._metrics.clock_error_us = clock.error_us
        self._metrics.clock_steps_total = self._tracker.steps
        return clock

    async def probe(self, server: Connection) -> None:
        """Measures once; what goes wrong on the reference's side is logged and left.

        Raises:
            CdcError: The server's own connection is gone.
        """
        if self._is_reference or self._settings.reference_dsn is None:
            return
        rounds = self._settings.probe_rounds
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                if self._reference is None or self._reference.closed:
                    self._reference = await connect_sql(
                        self._settings.reference_dsn,
                        connect_seconds=self._settings.connect_seconds,
                    )
                reference = await read_clock(self._reference, rounds)
        except (CdcError, TimeoutError) as error:
            self._metrics.clock_probe_failures_total += 1
            logger.warning(
                "clock_reference_unreachable",
                extra={"server": self._settings.server, "reason": str(error) or "no answer"},
            )
            await self.close()
            return
        self._tracker.add(compare(await read_clock(server, rounds), reference))
        self._metrics.clock_probed_us = time.time_ns() // 1_000
        self._metrics.clock_drift = self._tracker.drift.ratio

    async def take_up(self, server: Connection, known: Clock | None, at_us: int | None) -> None:
        """Goes on with what an earlier reader knew, where the reference cannot be asked now.

        Without it a reader that starts while the reference is away would write events without
        stamps, and a server seconds off would bill by its own clock.

        Args:
            server: The server's connection.
            known: The stamp at that time.
            at_us: What the server's clock showed then, or earlier: the bound grows with its age.

        Raises:
            CdcError: The server's own connection is gone.
        """
        if known is None or at_us is None or self.stamp() is not None:
            return
        now = await read_clock(server, 1)
        widened_us = known.error_us + max(0, now.clock_us - at_us) * DRIFT_PPM // 1_000_000
        self._tracker.add(Measured(known.offset_us, widened_us, now.at_us))
        logger.warning(
            "clock_taken_up",
            extra={
                "server": self._settings.server,
                "offset_us": known.offset_us,
                "error_us": widened_us,
            },
        )

    async def probe_for_ever(self, server: Connection) -> None:
        """Measures every `probe_seconds`; sooner while nothing is known."""
        settings = self._settings
        while True:
            soon = self.stamp() is None
            await asyncio.sleep(
                min(settings.heartbeat_seconds, settings.probe_seconds)
                if soon
                else settings.probe_seconds
            )
            await self.probe(server)

    async def close(self) -> None:
        """Leaves the reference."""
        connection, self._reference = self._reference, None
        if connection is not None:
            await connection.close()
