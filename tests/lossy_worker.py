"""A worker whose client loses every third batch on the way, as Faust does while partitions move."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

from stream_app.batches import BatchConsumer
from tests.streaming import main


def _lose_batches() -> None:
    fetch, count = BatchConsumer.getmany, itertools.count(1)

    async def getmany(self: BatchConsumer, timeout: float) -> AsyncIterator[Any]:
        async for fetched in fetch(self, timeout):
            if next(count) % 3:
                yield fetched
            else:
                batch: Any = fetched[1].value
                self.intake.on_fetched(self.app.consumer_generation_id, -len(batch))

    BatchConsumer.getmany = getmany  # type: ignore[method-assign]


if __name__ == "__main__":
    _lose_batches()
    sys.exit(main())
