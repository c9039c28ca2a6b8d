"""The transport: what Faust gets from Kafka is one message for a whole batch of a partition.

Owns every deviation from Faust's aiokafka driver, each with its reason beside it. Refuses to know
what is in the records.

Measured (631-byte events, one core): an ordinary agent with one table write an event does 2,900
events/s at 336 us of CPU each; with batches of up to 2,000 records as one message 95,000 at 10.4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast

from faust.serializers.schemas import Schema
from faust.topics import Topic
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

BUSY_WAIT_SECONDS = 1.0
FETCH_WAIT_SECONDS = 0.25  # a rebalance waits for a fetch that is under way


class Intake(Protocol):
    """What the consumer asks of the app: whether there is room, and how far it has got."""

    async def wait_for_room(self, seconds: float) -> bool:
        """Whether more may be fetched, at the latest after `seconds`."""

    def wants(self, topic: str) -> bool:
        """Whether batches of this topic are taken."""

    def on_fetched(self, generation: int, records: int) -> None:
        """So many records were handed on."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Topic and partition to the next offset that is wanted."""

    async def on_revoked(self) -> None:
        """A rebalance begins."""


class BatchSchema(Schema[None, list[Any]]):
    """Hands a batch on as it is: the agent reads the records itself."""

    def loads_key(self, app: Any, message: Any, **options: Any) -> None:
        """Batches have no key."""

    def loads_value(self, app: Any, message: Any, **options: Any) -> Any:
        """The list of aiokafka's records."""
        return message.value


class ReadyTopic(Topic):
    """A topic that `topics.ensure_topics` made before Faust started.

    Faust would declare it again at every start, and fail if the broker is away just then.
    """

    async def maybe_declare(self) -> None:
        """Nothing."""

    async def declare(self) -> None:
        """Nothing."""


class BatchConsumer(driver.Consumer):
    """Faust's consumer, fetching batches and committing by the greatest acknowledged offset."""

    _rebalances = 0

    @property
    def intake(self) -> Intake:
        """Set by the app before it starts."""
        intake: Intake = cast(Any, self.app).intake
        return intake

    @cached_property
    def _settled(self) -> asyncio.Event:
        """Set while no partitions move: from the seek that ends a rebalance to the next one."""
        return asyncio.Event()

    @cached_property
    def _fetching(self) -> asyncio.Lock:
        """Held by who fetches, and by who seeks."""
        return asyncio.Lock()

    async def getmany(
        self,
        timeout: float,  # noqa: ASYNC109  Faust's signature
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """One message a partition: value = its records, offset = the last one's.

        Changelogs are left away: their reading back is `changelog.restore`.

        Trap: where the group has two members or more, Faust assigns the others' changelog
        partitions to us as standbys and fetches them. Nobody takes them, and counted as held they
        would fill the room until nothing is fetched any more.
        """
        # Bounded memory: what is fetched and not yet committed counts in records. Faust's own bound
        # counts messages, and its way of pausing partitions forgets them over a rebalance.
        if not await self.intake.wait_for_room(BUSY_WAIT_SECONDS) or not await self._is_settled():
            return
        async with self._fetching:
            records, active = await self._wait_next_records(min(timeout, FETCH_WAIT_SECONDS))
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        for fetched_tp, batch in records.items():
            moving = not (self.flow_active and self._settled.is_set())
            if moving or self.app.consumer_generation_id != generation:
                return  # a rebalance began: its end seeks to where we are, see seek_to_committed
            tp = ensure_TP(fetched_tp)
            if batch and self.intake.wants(tp.topic) and (active is None or tp in active):
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                self.intake.on_fetched(generation, len(batch))
                yield tp, _batch_message(tp, batch, generation)

    async def _is_settled(self) -> bool:
        """Whether partitions do not move, at the latest after a while.

        Trap: a fetch that is under way when a rebalance begins waits for the new assignment, and
        then takes what came first of partitions that are not ready; all of that is left. Faust also
        fetches again before it has sought: the batch behind the one that was left would be taken,
        the position with it, and what was left would never be read. So nothing is fetched until the
        end of a rebalance has sought, and that waits for a fetch which is still under way.
        """
        if not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), BUSY_WAIT_SECONDS)
        return self._settled.is_set()

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit: behind the greatest that was acknowledged.

        Trap: Faust looks for consecutive offsets from the committed one on. A batch acknowledges
        its last offset only, so after a restart the first is not next to the committed one, nothing
        is committed any more, and everything is read again each time. The greatest is right as long
        as batches of a partition are acknowledged in order, which `Commits` guarantees.
        """
        acked = self._acked[tp]
        if not acked:
            return None
        newest = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return int(newest) + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: the offsets between two batches' last records are no gap (see `_new_offset`)."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """To where the partition's own state says that it is.

        The group's offsets may lag (they are committed seconds apart) or be lost (a group that was
        away for longer than the broker keeps them); the state moves with the partition. They may
        be ahead, too: of a state whose changelog is gone, or of a topic that was made anew. Then
        everything is read again that the state does not know.

        Trap: where nothing was ever committed the driver does not seek at all. Records that were
        fetched while partitions moved, and left, would be lost: such a partition goes back to its
        position too, even to 0 (or to where its log begins by now: `auto_offset_reset`).
        """
        async with self._fetching:
            rebalances = self._rebalances
            sought = await self._seek_to_own()
            if rebalances == self._rebalances:  # else the end of the next one settles it
                self._settled.set()
        return sought

    async def _seek_to_own(self) -> Mapping[TP, int]:
        committed = dict(await super().seek_to_committed())
        assigned = self.assignment()
        own = {
            tp: position
            for (topic, partition), position in self.intake.positions().items()
            if (tp := TP(topic, partition)) in assigned
            and (position != committed.get(tp) or not position)
        }
        if own:
            await self.seek_wait(own)
        return {**committed, **own}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finishes what is held, and commits it, before the partitions may go.

        Trap: Faust forgets the acknowledged offsets of revoked partitions first and asks the app
        afterwards, so up to a commit interval of work would be done again.
        """
        self._settled.clear()
        self._rebalances += 1
        await self.intake.on_revoked()
        await self.commit()
        await super().on_partitions_revoked(revoked)

    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust logs what it takes for a stall; `watchdog` acts on a real one."""


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer: ClassVar[type[BatchConsumer]] = BatchConsumer


def _batch_message(tp: TP, batch: list[Any], generation: int) -> ConsumerMessage:
    last = batch[-1]
    return ConsumerMessage(
        tp.topic,
        tp.partition,
        last.offset,
        (last.timestamp or 0) / 1_000,
        last.timestamp_type,
        None,
        None,
        cast(Any, batch),  # opaque to Faust: BatchSchema hands it on
        None,
        tp=tp,
        generation_id=generation,
    )


class Room:
    """How many records are fetched and not yet committed, against a bound."""

    def __init__(self, records_max: int) -> None:
        self.records_max = records_max
        self._generation = 0
        self._queued = 0
        self._held = 0
        self._free = asyncio.Event()
        self._free.set()

    @property
    def records(self) -> int:
        """Fetched and not yet committed."""
        return self._queued + self._held

    async def wait(self, seconds: float) -> bool:
        """Whether there is room, at the latest after `seconds`."""
        if self._free.is_set():
            return True
        try:
            await asyncio.wait_for(self._free.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def fetched(self, generation: int, records: int) -> None:
        """Records went into Faust's queue."""
        if generation != self._generation:
            # A rebalance empties Faust's queues: what was queued before never comes out.
            self._generation, self._queued = generation, 0
        self._queued += records
        self._update()

    def taken(self, generation: int, records: int, *, held: bool) -> None:
        """Records came out of Faust's queue, to be held until they are committed, or not."""
        if generation == self._generation:
            self._queued = max(0, self._queued - records)
        if held:
            self._held += records
        self._update()

    def let_go(self, records: int) -> None:
        """Records are committed, or their partition is gone."""
        self._held = max(0, self._held - records)
        self._update()

    def emptied(self) -> None:
        """Faust's queues were emptied."""
        self._queued = 0
        self._update()

    def _update(self) -> None:
        if self.records < self.records_max:
            self._free.set()
        else:
            self._free.clear()
