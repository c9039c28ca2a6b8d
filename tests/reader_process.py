"""A reader as a process of its own, for tests that kill it: settings from the environment."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cdc.reader import run_reader
from cdc.settings import ReaderSettings, TopicNames


async def main() -> None:
    """Reads until SIGTERM."""
    values = json.loads(os.environ["READER"])
    bed = values.pop("bed")
    settings = ReaderSettings(
        server=bed,
        kafka={"bootstrap.servers": os.environ["BOOTSTRAP"]},
        topics=TopicNames(f"{bed}.events", f"{bed}.observers", f"{bed}.positions", f"{bed}.status"),
        partitions=3,
        replication_factor=1,
        reference=True,
        position_seconds=0.1,
        confirm_seconds=0.1,
        retry_seconds_max=0.5,
        **values,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run_reader(settings, stop)


logging.basicConfig(level=logging.WARNING)
asyncio.run(main())
