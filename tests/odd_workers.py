"""Workers whose client behaves as it may: `python -m tests.odd_workers SETTINGS ODDITY`.

What happens in the wild once in a hundred take-overs on a busy machine happens here each time.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from faust.assignor.partition_assignor import PartitionAssignor
from faust.types import TP

from stream_app.batches import BatchConsumer
from tests.streaming import main

SLOW_SECONDS = 1.5


def lossy() -> None:
    """Every third batch is lost on the way, as Faust loses some while partitions move."""
    fetch, count = BatchConsumer.getmany, itertools.count(1)

    async def getmany(self: BatchConsumer, timeout: float) -> AsyncIterator[Any]:
        async for fetched in fetch(self, timeout):
            if next(count) % 3:
                yield fetched
            else:
                batch: Any = fetched[1].value
                self.intake.on_fetched(self.app.consumer_generation_id, -len(batch))

    BatchConsumer.getmany = getmany  # type: ignore[method-assign]


def slow_to_seek() -> None:
    """The broker takes its time to say where the group was; records come meanwhile."""
    seek = BatchConsumer.seek_to_committed

    async def seek_to_committed(self: BatchConsumer) -> Mapping[TP, int]:
        await asyncio.sleep(SLOW_SECONDS)
        return await seek(self)

    BatchConsumer.seek_to_committed = seek_to_committed  # type: ignore[method-assign]


def unaware() -> None:
    """At the first assignment its client knows no event topic: one that was just made anew."""
    group, count = PartitionAssignor._get_copartitioned_groups, itertools.count()

    def grouped(topics: set[str], cluster: Any, subscriptions: Any) -> Any:
        known = topics if next(count) else {name for name in topics if not name.endswith("events")}
        return group(known, cluster, subscriptions)

    PartitionAssignor._get_copartitioned_groups = staticmethod(grouped)  # type: ignore[assignment]


if __name__ == "__main__":
    oddities = {"lossy": lossy, "slow_to_seek": slow_to_seek, "unaware": unaware}
    oddities[sys.argv[2]]()
    sys.exit(main())
