"""One server's reading between connecting and the next break.

Owns the order of things: check, find the starting point, stream, store the position, confirm.
Refuses to retry (`reader` does); whatever goes wrong leaves it as a CdcError, with nothing
confirmed that Kafka has not acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import orjson

from callstate.envelope import HEARTBEAT, heartbeat_message
from cdc.clock_probe import Reading, StepWatch, stopwatch_us
from cdc.clocks import ServerClock
from cdc.connect import Connection, connect_sql, connect_walsender
from cdc.errors import CdcError, ProtocolBroken, PublicationChanged, Retry, ServerUnreachable
from cdc.heartbeat import SAMPLE_SQL, Markers, Sample, before_header
from cdc.held_rows import HIGHEST_SQL, HeldRows
from cdc.lsn import lsn_text
from cdc.metrics import ReaderMetrics
from cdc.pgoutput import Decoder, ProtocolError
from cdc.position_keeper import PositionKeeper
from cdc.position_store import StoredPosition
from cdc.publication import check_publication
from cdc.publisher import Publisher
from cdc.queries import fetch_one, fetch_opt
from cdc.settings import ReaderSettings
from cdc.slot import (
    ServerFacts,
    check_not_future,
    check_server,
    identify,
    let_others_begin,
    slot_state,
)
from cdc.starting import Opened, Starting, routes
from cdc.status import State
from cdc.threads import in_thread
from cdc.topics import ensure_topics
from cdc.wal_stream import WalStream
from cdc.watching import RoomWatch, say_columns

logger = logging.getLogger(__name__)

_REPLY_SECONDS_MIN = 0.1


class Session:
    """One pair of connections to a server; `run` it once.

    Args:
        settings: The server's.
        publisher: Outlives the session: what it still holds is not read again.
        clock: Likewise.
        metrics: Likewise.
        room: Likewise: the slot's room shrinks faster while nobody reads.
        say: Hears what the session is doing.
        trouble: Hears what keeps it from beginning besides the error that is raised, and of that
            which heals by itself at once: the other side may be waited for much longer.
    """

    def __init__(
        self,
        settings: ReaderSettings,
        publisher: Publisher,
        clock: ServerClock,
        metrics: ReaderMetrics,
        room: RoomWatch,
        say: Callable[[State], None],
        trouble: Callable[[CdcError], None],
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._say = say
        self._trouble = trouble
        self._decoder = Decoder(settings.server, routes(settings))
        self._reply_asked = False
        self._status_at = 0.0
        self._confirmed = 0
        self._held = HeldRows()
        self._room = room

    async def run(self, stop: asyncio.Event) -> None:
        """Reads until `stop` is set, then waits for Kafka, confirms, and comes back.

        Raises:
            CdcError: By its retry rule.
        """
        async with AsyncExitStack() as stack:
            starting = asyncio.ensure_future(self._start(stack))
            if await _first_of(starting, stop):
                return
            opened, keeper, stream = starting.result()
            await self._stream(opened, keeper, stream, stop)

    async def _start(self, stack: AsyncExitStack) -> tuple[Opened, PositionKeeper, WalStream]:
        settings = self._settings
        opened = await self._reach_both(stack)
        keeper = await Starting(
            settings, opened, self._publisher, self._metrics, self._clock, self._say
        ).begin()
        # What this process has already handed to Kafka need not be read again.
        lsn = self._publisher.positions.handed
        if lsn > keeper.wanted.lsn:
            check_not_future(lsn, await identify(opened.walsender))
        lsn = max(lsn, keeper.wanted.lsn)
        self._confirmed = keeper.stored.lsn
        self._held = HeldRows(keeper.stored.held_id, keeper.stored.held_mark)
        self._decoder.codec = opened.facts.codec or "utf-8"
        self._decoder.ours = opened.facts.published.oids
        stream = await WalStream.start(
            opened.walsender,
            settings.slot_name,
            settings.publication,
            lsn,
            settings.drain_messages_max,
        )
        await let_others_begin(opened.sql, settings.slot_name)
        logger.info("streaming", extra={"server": settings.server, "lsn": lsn_text(lsn)})
        return opened, keeper, stream

    async def _reach_both(self, stack: AsyncExitStack) -> Opened:
        """Kafka and the server side by side: what is wrong with one is not hidden by the other."""
        settings = self._settings
        topics = asyncio.ensure_future(in_thread(ensure_topics, settings, settings.connect_seconds))
        server = asyncio.ensure_future(self._open(stack))
        asked: tuple[asyncio.Future[Any], ...] = (topics, server)
        failures: list[CdcError] = []
        try:
            for done in asyncio.as_completed(asked):
                try:
                    await done
                except CdcError as error:
                    failures.append(error)
                    if error.retry is Retry.TIMED:
                        self._trouble(error)
            if failures:
                worst = max(failures, key=_urgency)
                for other in failures:
                    if other is not worst and other.retry is not Retry.TIMED:
                        self._trouble(other)
                raise worst
            return Opened(*server.result(), topics.result())
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _open(self, stack: AsyncExitStack) -> tuple[Connection, Connection, ServerFacts]:
        settings = self._settings
        sql = await connect_sql(settings.dsn, connect_seconds=settings.connect_seconds)
        stack.push_async_callback(sql.close)
        facts = await check_server(sql, settings.publication)
        walsender = await connect_walsender(
            settings.dsn,
            connect_seconds=settings.connect_seconds,
            raw=facts.codec is not None,
            slot_wait_seconds=settings.slot_wait_seconds,
            silence_seconds=settings.silence_seconds,
        )
        stack.push_async_callback(walsender.close)
        return sql, walsender, facts

    async def _stream(
        self, opened: Opened, keeper: PositionKeeper, stream: WalStream, stop: asyncio.Event
    ) -> None:
        self._say(State.STREAMING)
        self._stamp(Sample(*await fetch_one(opened.sql, SAMPLE_SQL)))
        markers = Markers(opened.facts.wal_block_bytes, opened.facts.wal_segment_bytes)

        def tick() -> None:
            self._tick(opened.partitions, keeper, stream, markers)

        receiving = self._receive(stream)
        others: list[Coroutine[Any, Any, None]] = [
            self._publisher.pump_for_ever(tick),
            self._sample_for_ever(opened, markers),
            self._watch_for_ever(opened),
            self._clock.probe_for_ever(opened.sql),
        ]
        reading = asyncio.ensure_future(receiving)
        tasks = [reading, *(asyncio.ensure_future(other) for other in others)]
        try:
            if not await _first_of(asyncio.wait(tasks, return_when="FIRST_COMPLETED"), stop):
                for task in tasks:
                    if task.done():
                        task.result()
            reading.cancel()
            await self._finish(keeper, stream)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, stream: WalStream) -> None:
        """The hot path: socket -> rows -> Kafka's queue."""
        decoder, publisher, metrics = self._decoder, self._publisher, self._metrics
        pause = self._settings.drain_pause_seconds
        while True:
            messages = await stream.drain()
            try:
                chunk = decoder.feed(messages)
            except ProtocolError as error:
                raise ProtocolBroken(str(error)) from error
            self._reply_asked |= chunk.reply_asked
            metrics.rows_read_total += len(chunk.records)
            metrics.bytes_read_total += chunk.size_bytes
            if chunk.records:
                metrics.last_row_us = chunk.committed_us = decoder.prefix.commit_us
            metrics.open_transaction_rows = decoder.transaction_rows
            metrics.received_lsn = max(metrics.received_lsn, chunk.safe)
            if decoder.described:
                say_columns(self._settings.server, decoder.described, metrics)
                decoder.described.clear()
            del messages  # libpq's memory: not to be held while waiting for room
            if chunk.records or chunk.safe:
                await publisher.publish(chunk)
            # A rest lets a busy server gather more for the next wake-up; behind a backlog there
            # is more already.
            await asyncio.sleep(pause if stream.dry else 0)

    def _tick(
        self, partitions: int, keeper: PositionKeeper, stream: WalStream, markers: Markers
    ) -> None:
        """What acknowledgements bring about, in this order: heartbeats, position, confirmation."""
        settings, positions, now = self._settings, self._publisher.positions, time.monotonic()
        self._held.passed(positions.confirmable)
        if markers.passed(positions.confirmable):
            self._beat(partitions, positions.confirmable, markers.progress_us)
        if positions.confirmable > keeper.wanted.lsn:
            # A server that waits for our reply (it shuts down) is not kept waiting.
            seconds = _REPLY_SECONDS_MIN if self._reply_asked else settings.position_seconds
            keeper.put_soon(
                self._reached(keeper, positions.confirmable),
                seconds,
            )
        elif self._metrics.progress_us != keeper.wanted.progress_us:
            # An idle server's time goes on too: a later gap begins no earlier than need be.
            reached = self._reached(keeper, keeper.wanted.lsn)
            keeper.put_soon(reached, settings.idle_position_seconds)
        since = now - self._status_at
        news = keeper.stored.lsn > self._confirmed or self._reply_asked
        if since >= settings.confirm_seconds or (news and since >= _REPLY_SECONDS_MIN):
            self._confirm(keeper.stored.lsn, stream, ask_reply=markers.waiting)
        self._metrics.unacked_records = positions.unacked_records
        self._metrics.buffer_bytes = positions.unacked_bytes

    def _reached(self, keeper: PositionKeeper, lsn: int) -> StoredPosition:
        return replace(
            keeper.wanted,
            lsn=lsn,
            progress_us=self._metrics.progress_us,
            held_id=self._held.held_id,
            held_mark=self._held.mark,
            clock=self._clock.stamp(),
            clock_at_us=self._metrics.progress_us,
        )

    def _confirm(self, lsn: int, stream: WalStream, *, ask_reply: bool) -> None:
        # Asked for a reply, an idle server says how far its log has been decoded.
        stream.confirm(lsn, ask_reply=ask_reply)
        self._confirmed = self._metrics.confirmed_lsn = lsn
        self._status_at = time.monotonic()
        self._reply_asked = False

    def _beat(self, partitions: int, lsn: int, progress_us: int | None) -> None:
        assert progress_us is not None
        settings, metrics = self._settings, self._metrics
        metrics.progress_us = progress_us
        metrics.heartbeats_total += 1
        value = orjson.dumps(
            heartbeat_message(settings.server, progress_us, lsn_text(lsn), self._clock.stamp())
        )
        for partition in range(partitions):
            self._publisher.send(
                settings.topics.events,
                settings.server,
                value,
                partition=partition,
                kind=HEARTBEAT,
            )

    def _stamp(self, sample: Sample) -> None:
        self._decoder.prefix.set_clock(self._clock.stamp(), sample.time_us)

    async def _sample_for_ever(self, opened: Opened, markers: Markers) -> None:
        facts, pace = opened.facts, StepWatch()
        while True:
            # The id before the position: what it shows was committed before.
            highest = await fetch_opt(opened.sql, HIGHEST_SQL) if facts.tells_ids else None
            asked_us = stopwatch_us()
            sample = Sample(*await fetch_one(opened.sql, SAMPLE_SQL))
            half_us = (stopwatch_us() - asked_us) // 2 + 1
            self._metrics.process_ahead_us = time.time_ns() // 1_000 - half_us - sample.time_us
            if pace.stepped(Reading(sample.time_us, asked_us + half_us, half_us)):
                # Now, and not at the next probe: until then every row is stamped wrongly.
                await self._clock.probe(opened.sql)
                markers.shift(pace.moved_us)
            markers.add(sample)
            if highest is not None:
                lsn = before_header(sample.inserted, facts.wal_block_bytes, facts.wal_segment_bytes)
                self._held.add(lsn, *highest)
            self._stamp(sample)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _watch_for_ever(self, opened: Opened) -> None:
        """Looks at what the stream does not tell: the slot's room, the publication."""
        settings = self._settings
        while True:
            state = await slot_state(opened.sql, settings.slot_name)
            self._room.look(state)
            published = await check_publication(opened.sql, settings.publication)
            if published != opened.facts.published:
                raise PublicationChanged(f"publication {settings.publication} is not the same")
            await asyncio.sleep(settings.slot_check_seconds)

    async def _finish(self, keeper: PositionKeeper, stream: WalStream) -> None:
        """Waits for what Kafka holds back, stores and confirms; bounded, and safe to cut short."""
        deadline = time.monotonic() + self._settings.shutdown_seconds
        publisher = self._publisher
        await publisher.drained(deadline)
        lsn = publisher.positions.confirmable
        if lsn > keeper.wanted.lsn:
            keeper.put(self._reached(keeper, lsn))
        await publisher.drained(deadline)  # a position that is on its way counts too
        self._confirm(keeper.stored.lsn, stream, ask_reply=False)
        logger.info(
            "stopped",
            extra={"server": self._settings.server, "lsn": lsn_text(keeper.stored.lsn)},
        )


def _urgency(error: CdcError) -> tuple[bool, bool]:
    """Who has to be helped goes before who comes back by itself, and the server before Kafka."""
    return error.retry is not Retry.TIMED, isinstance(error, ServerUnreachable)


async def _first_of(
    work: Coroutine[Any, Any, Any] | asyncio.Future[Any], stop: asyncio.Event
) -> bool:
    """Waits for `work` or `stop`; True where it was `stop`, and `work` is cancelled then."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return False
        return True
    finally:
        for task in (working, stopped):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)
