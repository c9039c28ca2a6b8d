"""The readers of a process: one server's sessions one after another, several servers side by side.

Owns retrying, by each error's rule with bounded back-off, and the status record. Refuses to know
how a session works.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from cdc.clocks import ServerClock
from cdc.connect import connect_sql
from cdc.errors import CdcError, ReaderBroken, Retry, ServerUnreachable, SlotBusy
from cdc.metrics import ReaderMetrics
from cdc.publisher import Publisher
from cdc.session import Session
from cdc.settings import ReaderSettings
from cdc.slot import slot_state
from cdc.status import State, status_key, status_message
from cdc.watching import RoomWatch

logger = logging.getLogger(__name__)

_STEADY_SECONDS = 30.0
_LOOK_SECONDS = 3.0
_TELL_AGAIN_SECONDS = 300.0
_TOLD_MAX = 64


class ServerReader:
    """One server's reader over all its sessions.

    Attributes:
        last_error: The newest error; None once it streams.
        troubles: All that keeps it from reading now, by kind: server and Kafka may both be away.
    """

    def __init__(self, settings: ReaderSettings) -> None:
        self.settings = settings
        self.metrics = ReaderMetrics(server=settings.server)
        self.state = State.STARTING
        self.last_error: CdcError | None = None
        self.troubles: Mapping[str, CdcError] = {}
        self._heard: dict[str, CdcError] = {}  # in this session
        self._told_at: dict[str, float] = {}  # by what was told
        self._publisher = Publisher(settings, self.metrics)
        self._clock = ServerClock(settings, self.metrics)
        self._room = RoomWatch(settings, self.metrics)
        self._looked_at = float("-inf")
        # Until the slot is ours another reader may be at work: its status is not to be overwritten.
        self._standing_by = True

    async def run(self, stop: asyncio.Event) -> None:
        """Reads until `stop` is set; breaks that heal by themselves are waited out.

        Raises:
            CdcError: With the rule `manual` or `never`: an operator has to do something.
        """
        telling = asyncio.ensure_future(self._tell_for_ever())
        try:
            await self._run_sessions(stop)
            self.state = State.STOPPED
        except CdcError as error:
            self._failed(error)
            raise
        except Exception as error:
            logger.exception("reader_broken", extra={"server": self.settings.server})
            broken = ReaderBroken(f"{type(error).__name__}: {error}")
            self._failed(broken)
            raise broken from error
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await self._leave()

    def _failed(self, error: CdcError) -> None:
        self.last_error = error
        self._heard[type(error).__name__] = error
        self.troubles = self._heard
        self._set_state(State.FAILED)

    async def _run_sessions(self, stop: asyncio.Event) -> None:
        settings, delay = self.settings, self.settings.retry_seconds_min
        while not stop.is_set():
            began = time.monotonic()
            self._heard = {}
            session = Session(
                settings,
                self._publisher,
                self._clock,
                self.metrics,
                self._room,
                self._set_state,
                self._hear,
            )
            try:
                await session.run(stop)
            except CdcError as error:
                if error.retry is not Retry.TIMED:
                    await self._look_at_slot()
                    raise
                self._note(error)
                if not isinstance(error, ServerUnreachable | SlotBusy):
                    await self._look_at_slot()
            if time.monotonic() - began > _STEADY_SECONDS:
                delay = settings.retry_seconds_min
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    stop.wait(),
                    settings.standby_seconds if self.state is State.STANDBY else delay,
                )
            delay = min(delay * 2, settings.retry_seconds_max)

    async def _look_at_slot(self) -> None:
        """Watches the slot while nothing streams (Kafka is away, an operator has to help)."""
        settings = self.settings
        if time.monotonic() - self._looked_at < settings.slot_check_seconds:
            return
        self._looked_at = time.monotonic()
        with suppress(CdcError, TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                conn = await connect_sql(settings.dsn, connect_seconds=_LOOK_SECONDS)
                try:
                    self._room.look(await slot_state(conn, settings.slot_name))
                finally:
                    await conn.close()

    def _note(self, error: CdcError) -> None:
        self._set_state(State.STANDBY if isinstance(error, SlotBusy) else State.RETRYING)
        self.last_error = error
        self.metrics.reconnected(type(error).__name__)
        self._hear(error)
        self.troubles = self._heard  # what an earlier session heard is over
        if self._publisher.failure is not None:
            self._publisher.close()
            self._publisher = Publisher(self.settings, self.metrics)

    def _hear(self, error: CdcError) -> None:
        """Takes a trouble as soon as it is known; what lasts is told once in a while."""
        kind, now = type(error).__name__, time.monotonic()
        self._heard[kind] = error
        self.troubles = {**self.troubles, kind: error}
        words = f"{kind}: {error}"
        again = now - self._told_at.get(words, float("-inf")) < _TELL_AGAIN_SECONDS
        if not again:
            if len(self._told_at) >= _TOLD_MAX:
                self._told_at.clear()
            self._told_at[words] = now
        logger.log(
            logging.DEBUG if again else logging.WARNING,
            "standby" if isinstance(error, SlotBusy) else "reader_retries",
            extra={
                "server": self.settings.server,
                "error": kind,
                "reason": str(error),
                "advice": error.advice,
            },
        )

    def _set_state(self, state: State) -> None:
        self.state = state
        if state in (State.STARTING, State.BACKFILL, State.STREAMING):
            self.troubles = {}  # server and Kafka are both there
        if state is State.STREAMING:
            self.last_error = None
            self._told_at.clear()
        if self._standing_by and state is not State.STANDBY:
            self._tell(goodbye=True)
            self._standing_by = False
            self._tell()
        self._standing_by = state is State.STANDBY

    async def _tell_for_ever(self) -> None:
        while True:
            self._tell()
            with suppress(CdcError):
                self._publisher.pump()
            await asyncio.sleep(self.settings.status_seconds)

    def _tell(self, *, goodbye: bool = False) -> None:
        server = self.settings.server
        self._publisher.send(
            self.settings.topics.status,
            status_key(server, standing_by=self._standing_by),
            None if goodbye else status_message(server, self.state, self.metrics, self.last_error),
        )

    async def _leave(self) -> None:
        await self._clock.close()
        with suppress(CdcError):
            self._tell(goodbye=self._standing_by)
            await self._publisher.drained(time.monotonic() + 1.0)
        self._publisher.close()


OnReader = Callable[[ServerReader], None]


async def run_reader(
    settings: ReaderSettings, stop: asyncio.Event, on_reader: OnReader | None = None
) -> None:
    """Reads one server until `stop` is set.

    Every row committed on the server reaches Kafka at least once, however often this process dies;
    repeats have the same (server, id). After `stop` it comes back within 10 s. `on_reader` is given
    the reader before it starts, for those who measure it.

    Raises:
        CdcError: With the rule `manual` or `never`; its advice says what to do.
    """
    reader = ServerReader(settings)
    if on_reader is not None:
        on_reader(reader)
    await reader.run(stop)


async def run_readers(
    servers: Sequence[ReaderSettings],
    stop: asyncio.Event,
    on_reader: OnReader | None = None,
) -> None:
    """Reads several servers in one process; what one of them lacks does not stop the others.

    A reader that an operator has to help is tried again every `manual_retry_seconds`, one that may
    not go on (`never`) ends.

    Raises:
        CdcError: The only reader's, or the last one's where all have ended.
    """
    if len(servers) == 1:
        await run_reader(servers[0], stop, on_reader)
        return
    ended = await asyncio.gather(
        *(_keep_reading(settings, stop, on_reader) for settings in servers),
        return_exceptions=True,
    )
    failures = [end for end in ended if isinstance(end, BaseException)]
    if failures:
        raise failures[-1]


async def _keep_reading(
    settings: ReaderSettings, stop: asyncio.Event, on_reader: OnReader | None
) -> None:
    while not stop.is_set():
        try:
            await run_reader(settings, stop, on_reader)
        except CdcError as error:
            logger.error(  # noqa: TRY400  an operator wants the advice and no traceback
                "reader_failed",
                extra={
                    "server": settings.server,
                    "error": type(error).__name__,
                    "reason": str(error),
                    "advice": error.advice,
                },
            )
            if error.retry is Retry.NEVER:
                raise
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), settings.manual_retry_seconds)
