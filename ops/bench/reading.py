"""A reader as a process of its own that measures itself, for `ops.bench.reader`.

Settings come as JSON on the command line: a list, one object for each server. It says `streaming`
when all of them stream, `done` with its figures when `rows` rows are acknowledged, and ends when
its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from cdc.reader import ServerReader
from cdc.settings import ReaderSettings, StartMode, TopicNames
from cdc.status import State


def settings_of(value: dict[str, Any]) -> ReaderSettings:
    """One server's settings; topics are its own."""
    prefix = value["server"]
    return ReaderSettings(
        server=value["server"],
        dsn=value["dsn"],
        slot=value["slot"],
        kafka={"bootstrap.servers": value["bootstrap_servers"]},
        topics=TopicNames(
            value.get("topic", f"{prefix}.events"),
            f"{prefix}.observers",
            f"{prefix}.positions",
            f"{prefix}.status",
        ),
        partitions=8,
        replication_factor=1,
        start_mode=StartMode.NOW,
        reference=True,
    )


def memory_peak_mb() -> float:
    """The largest resident set so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main(values: list[dict[str, Any]], rows: int) -> None:
    """Reads until told to end; see the module."""
    readers = [ServerReader(settings_of(value)) for value in values]
    stop = asyncio.Event()
    began, cpu = time.monotonic(), _cpu_seconds()
    running = asyncio.gather(*(reader.run(stop) for reader in readers))
    while not all(reader.state is State.STREAMING for reader in readers):
        if running.done():
            running.result()
        if not any(reader.state is State.STREAMING for reader in readers):
            began, cpu = time.monotonic(), _cpu_seconds()
        await asyncio.sleep(0.002)
    _say("streaming")
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    told = False
    while not ended.done():
        if running.done():
            running.result()
        published = sum(reader.metrics.rows_published_total for reader in readers)
        if not told and published >= rows:
            told = True
            figures = {
                "seconds": time.monotonic() - began,
                "cpu_seconds": _cpu_seconds() - cpu,
                "memory_mb": memory_peak_mb(),
                "rows": published,
            }
            _say("done", **figures)
        await asyncio.sleep(0.01)
    _say("ended", cpu_seconds=_cpu_seconds() - cpu, seconds=time.monotonic() - began)
    stop.set()
    await running


def _say(what: str, **more: float) -> None:
    sys.stdout.write(json.dumps({"what": what, **more}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2])))
