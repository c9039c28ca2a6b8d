"""Where reading begins: stored position, slot, and what has to be read of the tables first.

Owns the decision and what it takes (a new slot, the record of a gap, the backfill). Refuses to
stream.

| stored position | slot | begin |
|---|---|---|
| none | none | new slot; backfill in its snapshot (or not at all: `start_mode = now`) |
| none | there | backfill in a snapshot of now; the slot is older, so nothing lies between |
| streaming | there | at the stored position |
| in backfill | there | backfill from the last id that is in Kafka |
| any | gone, lost, or ahead of the position | gap record; new slot; backfill |
| of another publication, or of one whose tables went out and in | there | the same |
| from before the branch of a promoted standby that kept the slot | there | at the position |
| of another server or history | any | refused; with `accept_server_change` as if gone |
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from callstate.envelope import GAP, Gap, gap_message
from cdc import position_store
from cdc.clocks import ServerClock
from cdc.connect import Connection
from cdc.errors import ServerChanged, SlotBusy, SlotLost, TimelineChanged
from cdc.held_rows import ABOVE_SQL, HELD_SQL, Above, Found, lost_rows, other_history
from cdc.lsn import lsn_text
from cdc.metrics import ReaderMetrics
from cdc.pgoutput import EnvelopePrefix, Route
from cdc.position_keeper import PositionKeeper
from cdc.position_store import StoredPosition
from cdc.positions import Batch
from cdc.publisher import Publisher
from cdc.queries import fetch_one
from cdc.settings import CALL_TABLE, OBSERVER_TABLE, ReaderSettings, StartMode
from cdc.slot import (
    Identity,
    ServerFacts,
    SlotState,
    begin_alone,
    branched_at,
    check_not_future,
    check_position,
    check_slot,
    create_slot,
    drop_slot,
    identify,
    slot_state,
)
from cdc.snapshot import Backfill
from cdc.status import State
from cdc.threads import in_thread

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """Both connections to a server, and what is known of it."""

    sql: Connection
    walsender: Connection
    facts: ServerFacts
    partitions: int


class Starting:
    """Finds the starting point of one session."""

    def __init__(
        self,
        settings: ReaderSettings,
        opened: Opened,
        publisher: Publisher,
        metrics: ReaderMetrics,
        clock: ServerClock,
        say: Callable[[State], None],
    ) -> None:
        self._settings = settings
        self._opened = opened
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._say = say
        self._snapshot: str | None = None
        self._identity = Identity("", 0, 0)

    async def begin(self) -> PositionKeeper:
        """Makes everything ready to stream behind the keeper's stored position.

        The order of looking matters, because another reader may be at work until the slot is ours:
        it stores before it confirms, and the server is always ahead of both. So the slot is looked
        at first, then the stored position, then the server's log.

        Raises:
            CdcError: By its retry rule.
        """
        settings = self._settings
        await begin_alone(self._opened.sql, settings.slot_name)
        slot = await slot_state(self._opened.sql, self._settings.slot_name)
        if slot is not None and slot.active_pid is not None:
            raise SlotBusy(f"slot {settings.slot_name} is active for PID {slot.active_pid}")
        self._say(State.STARTING)
        stored = await in_thread(
            position_store.load,
            settings.kafka,
            settings.topics.positions,
            settings.server,
            settings.connect_seconds,
            is_there=True,
        )
        self._identity = await identify(self._opened.walsender)
        machine = (self._identity.system_id, self._identity.timeline)
        self._clock.belongs_to(machine)
        await self._clock.probe(self._opened.sql)
        if stored is not None and (stored.system_id, stored.timeline) == machine:
            await self._clock.take_up(self._opened.sql, stored.clock, stored.clock_at_us)
        position = await self._position(stored, slot)
        await self._count_from(position)
        keeper = PositionKeeper(
            self._publisher, self._settings.topics.positions, self._settings.server, position
        )
        if position is not stored:
            keeper.put(position)
        if position.backfilling:
            self._say(State.BACKFILL)
            await self._backfill(keeper)
        return keeper

    async def _count_from(self, position: StoredPosition) -> None:
        """What this process has handed over counts only in the history that it is of.

        Another reader may have followed a failover, or begun anew, since this one had the slot.
        """
        history = (position.system_id, position.timeline, position.epoch)
        if self._publisher.history not in (None, history):
            await self._all_acknowledged()
            self._publisher.begin_anew()
        self._publisher.history = history

    async def _position(
        self, stored: StoredPosition | None, slot: SlotState | None
    ) -> StoredPosition:
        settings, identity = self._settings, self._identity
        try:
            if stored is not None:
                stored = await self._on_this_timeline(stored, slot)
                if slot is not None and slot.wal_status != "lost":  # else all is read anew anyway
                    await self._check_history(stored)
        except ServerChanged as changed:
            if not settings.accept_server_change:
                raise
            assert stored is not None
            logger.warning("server_change_accepted", extra={"reason": str(changed)})
            return await self._anew(stored, slot, str(changed))
        try:
            if slot is not None:
                check_slot(slot, settings.slot_name, self._opened.sql.info.dbname)
            if stored is not None:
                self._check_covers(slot, stored)
        except SlotLost as lost:
            logger.warning(
                "reading_begins_anew", extra={"slot": settings.slot_name, "reason": str(lost)}
            )
            return await self._anew(stored, slot, str(lost))
        if stored is not None:
            if stored.coverage is None:
                return replace(stored, coverage=self._opened.facts.published.coverage)
            return stored
        if slot is None:
            return await self._create(0)
        check_not_future(slot.confirmed, identity)
        return self._fresh(slot.confirmed, 0)

    async def _on_this_timeline(
        self, stored: StoredPosition, slot: SlotState | None
    ) -> StoredPosition:
        """The stored position as one of this server's history.

        After a failover to a standby that kept our slot reading goes on where the position is from
        before the two histories parted: everything up to it is the same in both.

        Raises:
            ServerChanged: It is not.
        """
        identity = self._identity
        try:
            check_position(stored, identity)
        except TimelineChanged:
            if slot is None or not slot.failover:
                raise
            parted = await branched_at(self._opened.walsender, identity.timeline, stored.timeline)
            if parted is None or stored.lsn > parted:
                raise
            check_not_future(stored.lsn, identity)
            logger.warning(
                "failover_followed",
                extra={
                    "server": self._settings.server,
                    "timeline": identity.timeline,
                    "parted_at": lsn_text(parted),
                },
            )
            return replace(stored, timeline=identity.timeline)
        return stored

    async def _check_history(self, stored: StoredPosition) -> None:
        """Looks for the row that was read last.

        Raises:
            ServerChanged: Another one is in its place: this is another history of the same server.
        """
        held_id, mark = stored.held_id, stored.held_mark
        if held_id is None or mark is None or not self._opened.facts.tells_ids:
            return
        found = Found(*await fetch_one(self._opened.sql, HELD_SQL, {"id": held_id}))
        why = other_history(held_id, mark, found)
        if why is not None:
            raise ServerChanged(f"{why}: it was restored to an earlier state")

    def _check_covers(self, slot: SlotState | None, stored: StoredPosition) -> None:
        """A slot is told only what is stored: one that is ahead was made or moved by others."""
        name = self._settings.slot_name
        if slot is None:
            raise SlotLost(f"slot {name} was dropped; the position {lsn_text(stored.lsn)} is known")
        if slot.confirmed > stored.lsn:
            raise SlotLost(
                f"slot {name} is at {lsn_text(slot.confirmed)}, ahead of the stored position"
                f" {lsn_text(stored.lsn)}: it was made anew or moved"
            )
        if stored.coverage not in (None, self._opened.facts.published.coverage):
            raise SlotLost(
                f"publication {self._settings.publication}, or a table in it, was made anew:"
                " rows written in between are not in the stream"
            )

    async def _anew(
        self, stored: StoredPosition | None, slot: SlotState | None, reason: str
    ) -> StoredPosition:
        """A new slot in the place of one that cannot be used, and the record of what is between."""
        if slot is not None:
            await drop_slot(self._opened.sql, self._settings.slot_name)
        if stored is None:
            return await self._create(0)
        position = await self._create(stored.epoch + 1, StartMode.BACKFILL)
        (now_us,) = await fetch_one(
            self._opened.sql, "select (extract(epoch from clock_timestamp()) * 1000000)::int8"
        )
        reason = f"{reason}; {await self._count_lost(stored.held_id)}"
        logger.warning("gap", extra={"server": self._settings.server, "reason": reason})
        gap = Gap(
            self._settings.server,
            lsn_text(stored.lsn),
            lsn_text(position.lsn),
            stored.progress_us or 0,
            now_us,
            reason,
        )
        value = orjson.dumps(gap_message(gap))
        for partition in range(self._opened.partitions):
            await self._publisher.deliver(
                self._settings.topics.events,
                self._settings.server,
                value,
                partition=partition,
                kind=GAP,
            )
        self._metrics.gaps_total += 1
        await self._all_acknowledged()
        self._publisher.begin_anew()
        return position

    async def _count_lost(self, held_id: int | None) -> str:
        """Says how many rows were purged while nobody read, as far as ids tell."""
        above = None
        if held_id is not None and self._opened.facts.tells_ids:
            above = Above(*await fetch_one(self._opened.sql, ABOVE_SQL, (held_id,)))
        rows, words = lost_rows(held_id, above)
        self._metrics.rows_lost_total += rows or 0
        return words

    async def _create(self, epoch: int, mode: StartMode | None = None) -> StoredPosition:
        created = await create_slot(
            self._opened.walsender,
            self._opened.sql,
            self._settings.slot_name,
            self._opened.facts.version,
        )
        self._snapshot = created.snapshot
        return self._fresh(created.consistent, epoch, mode)

    def _fresh(self, lsn: int, epoch: int, mode: StartMode | None = None) -> StoredPosition:
        wanted = (mode or self._settings.start_mode) is StartMode.BACKFILL
        return StoredPosition(
            lsn=lsn,
            system_id=self._identity.system_id,
            timeline=self._identity.timeline,
            slot=self._settings.slot_name,
            epoch=epoch,
            backfill_table=self._opened.facts.tables[0] if wanted else None,
            coverage=self._opened.facts.published.coverage,
        )

    async def _backfill(self, keeper: PositionKeeper) -> None:
        position = keeper.wanted
        prefix = EnvelopePrefix(self._settings.server)
        clock = self._clock.stamp()
        if clock is not None:
            prefix.set_clock(clock._replace(late=True))
        backfill = Backfill(
            self._opened.sql,
            self._settings.server,
            routes(self._settings),
            prefix,
            position.lsn,
            self._settings.backfill_rows,
            codec=self._opened.facts.codec,
        )
        await backfill.begin(self._snapshot)
        if self._snapshot is not None:
            await identify(self._opened.walsender)  # ends the export: its transaction is ours now
        tables = self._opened.facts.tables
        self._metrics.backfill_rows_expected = await backfill.expected_rows(tables)
        logger.info(
            "backfill_started",
            extra={
                "table": position.backfill_table,
                "after_id": position.backfill_after,
                "expected_rows": self._metrics.backfill_rows_expected,
            },
        )
        first = tables.index(position.backfill_table) if position.backfill_table in tables else 0
        after = position.backfill_after if tables[first] == position.backfill_table else None
        under_way: deque[tuple[Batch, str, int]] = deque()
        held_id = position.held_id
        for table in tables[first:]:
            async for part in backfill.slices(table, after):
                batch = await self._publisher.publish(part.chunk)
                under_way.append((batch, table, part.last_id))
                self._metrics.backfill_rows_total += len(part.chunk.records)
                held_id = part.last_id if table == CALL_TABLE else held_id
                self._note(keeper, under_way)
            after = None
        await backfill.end()
        await self._all_acknowledged()
        done = replace(position, backfill_table=None, backfill_after=None, held_id=held_id)
        keeper.put(done)
        await self._all_acknowledged()
        self._metrics.backfill_rows_expected = None
        logger.info("backfill_done", extra={"rows": self._metrics.backfill_rows_total})

    def _note(self, keeper: PositionKeeper, under_way: deque[tuple[Batch, str, int]]) -> None:
        done: tuple[Batch, str, int] | None = None
        while under_way and not under_way[0][0].unacked:
            done = under_way.popleft()
        if done is not None:
            keeper.put_soon(
                replace(keeper.wanted, backfill_table=done[1], backfill_after=done[2]),
                self._settings.position_seconds,
            )

    async def _all_acknowledged(self) -> None:
        """Waits as long as Kafka takes; the pump goes on elsewhere and ends us if it fails."""
        while not await self._publisher.drained(time.monotonic() + 60):
            logger.warning("kafka_slow", extra={"unacked": self._metrics.unacked_records})


def routes(settings: ReaderSettings) -> dict[str, Route]:
    """Where each table's rows go."""
    return {
        CALL_TABLE: Route(settings.topics.events, "call_id"),
        OBSERVER_TABLE: Route(settings.topics.observers, None),
    }
