"""A reader as a process of its own, for tests that kill it: settings from the environment.

`crash = ["cdc.wal_stream:WalStream.drain", "after", 3]` makes it die by SIGKILL right after the
third call of that function, or get the signal that stands there as a fourth: production code knows
nothing of it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cdc.reader import run_reader
from cdc.settings import ReaderSettings, TopicNames


def crash_at(place: str, when: str, count: int, number: int = signal.SIGKILL) -> None:
    """Sends the process a signal before or after the `count`th call of a function or method."""
    module_name, _, path = place.partition(":")
    holder: Any = importlib.import_module(module_name)
    *holders, name = path.split(".")
    for each in holders:
        holder = getattr(holder, each)
    function = getattr(holder, name)
    calls = 0

    def reached(now: str) -> None:
        nonlocal calls
        if now == when:
            calls += 1
            if calls == count:
                os.kill(os.getpid(), number)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **more: Any) -> Any:
            reached("before")
            result = await function(*args, **more)
            reached("after")
            return result
    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **more: Any) -> Any:
            reached("before")
            result = function(*args, **more)
            reached("after")
            return result

    setattr(holder, name, wrapper)


async def main() -> None:
    """Reads until SIGTERM."""
    values = json.loads(os.environ["READER"])
    bed = values.pop("bed")
    crash = values.pop("crash", None)
    if crash:
        crash_at(*crash)
    settings = ReaderSettings(
        server=bed,
        kafka={"bootstrap.servers": os.environ["BOOTSTRAP"]},
        topics=TopicNames(f"{bed}.events", f"{bed}.observers", f"{bed}.positions", f"{bed}.status"),
        partitions=3,
        replication_factor=1,
        reference=True,
        **{"position_seconds": 0.1, "confirm_seconds": 0.1, "retry_seconds_max": 0.5, **values},
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run_reader(settings, stop)


logging.basicConfig(level=logging.WARNING)
asyncio.run(main())
