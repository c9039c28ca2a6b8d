"""Many open calls: what they cost in memory, and what they take from the worker's speed.

Owns one worker that takes up a partition full of calls in progress and then empties a backlog, in
memory and in RocksDB, each beside the same backlog on an empty table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from callstate.envelope import EVENT, event_message
from callstate.events import format_time
from ops.bench.stream_backlog import empty_backlog
from ops.bench.stream_bed import Bench, Line, rss_mb, say, wait_until
from ops.bench.stream_log import CLOCKS, SERVERS, START_US, LogRecord
from ops.stack import Stack

_BEFORE_US: Final = 600 * 1_000_000  # open calls began in the ten minutes before the backlog
_MEMORY_MAX_MB: Final = {"memory": 2_000, "rocksdb": 400}
_SLOWER_MAX: Final = 0.25


def open_calls(stack: Stack, folder: Path, *, calls: int, backlog_calls: int) -> Iterator[Line]:
    """`calls` calls in progress, in each store."""
    for store, most_mb in _MEMORY_MAX_MB.items():
        empty = _run(stack, folder, store, 0, backlog_calls)
        full = _run(stack, folder, store, calls, backlog_calls)
        share = full["rate"] / empty["rate"]
        within = most_mb * calls / 1_000_000
        name = f"{calls:,} open calls, {store}"
        yield Line(
            f"{name}: memory, MB",
            f"{full['rss_mb']:,.0f}",
            f"<= {most_mb:,} for 1,000,000",
            full["rss_mb"] <= within if calls >= 1_000_000 else None,
        )
        yield Line("  of an empty table, MB", f"{empty['rss_mb']:,.0f}")
        yield Line("  memory while a backlog is emptied, MB", f"{full['busy_mb']:,.0f}")
        yield Line("  taken up in, s", f"{full['seconds']:.1f}")
        yield Line("  events/s", f"{full['rate']:,.0f}")
        yield Line(
            "  of an empty table's events/s",
            f"{share:.2f}",
            f">= {1 - _SLOWER_MAX:.2f}",
            share >= 1 - _SLOWER_MAX,
        )


def _run(stack: Stack, folder: Path, store: str, calls: int, backlog_calls: int) -> dict[str, Any]:
    bench = Bench(stack, folder, state_store=store)
    for record in _begun(calls):
        bench.put(record)
    assert bench.producer.flush(300) == 0
    ends = bench.ends() if calls else 0
    with bench.worker("first") as process:
        process.wait_logged("partitions_assigned")
        wait_until(lambda: bench.written() >= ends, "the open calls are known", process)
        first_mb = rss_mb(process.pid)
    with bench.worker("second") as process:  # as it is after a restart
        process.wait_logged("partitions_assigned")
        [taken] = process.said("partitions_assigned")[:1]
        second_mb = rss_mb(process.pid)
    events = bench.fill(backlog_calls)
    figure = empty_backlog(bench, events, behind=ends)
    told = {
        "rss_mb": max(first_mb, second_mb),
        "busy_mb": figure.rss_mb,
        "seconds": taken.get("seconds", 0.0),
        "rate": figure.events / figure.seconds,
    }
    say(f"  {store}, {calls:,} open: {told}")
    return told


def _begun(calls: int) -> Iterator[LogRecord]:
    """A request and its answer of each call, on one server."""
    for number in range(calls):
        server = SERVERS[number % len(SERVERS)]
        clock = CLOCKS[server]
        at_us = START_US - _BEFORE_US + number * _BEFORE_US // max(1, calls)
        call_id = f"{number * 2654435761 % 2**32:08x}-{number}@10.9.{number % 250}.{number % 31}"
        from_tag, to_tag = f"f{number:09x}", f"t{number:09x}"
        caller, callee = 200 + number % 3_000, 200 + number * 7 % 3_000
        for offset_us, kind in ((0, "R"), (4_000_000, "S")):
            row = {
                "id": 2 * number + (kind == "S") + 1_000_000_000,
                "observer": f"10.1.1.{ord(server)}:5060",
                "event_seq": number,
                "event_time": format_time(at_us + offset_us + clock.offset_us),
                "event_type": kind,
                "cseq": 1,
                "call_id": call_id,
                "from_tag": from_tag,
                "to_tag": to_tag if kind == "S" else "",
                "from_url": f'"User {caller}" <sip:{caller}@example.com>;tag={from_tag}',
                "to_url": f"<sip:{callee}@example.com>",
                "contact": f"<sip:{caller}@10.2.{caller % 200}.7:5060>",
                "branch_id": f"z9hG4bK-sipXecs-{number:016x}",
                "via_count": 1,
            }
            message = event_message(server, "0/16B3748", format_time(at_us), clock, row)
            yield LogRecord(at_us, EVENT, server, call_id.encode(), orjson.dumps(message))
