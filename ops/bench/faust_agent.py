"""What most people would write first: a Faust agent that counts each call's events into a table.

The measure that the stream app is held against: same broker, same records, memory store, JSON by
orjson, no sink, no rules, no clocks.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from typing import Any

import faust
import orjson


def main() -> None:
    """Runs until it is killed; says how far it is."""
    bootstrap_servers, topic_name, partitions = sys.argv[1:]
    logging.basicConfig(level=logging.ERROR)
    app = faust.App(
        f"count-{uuid.uuid4().hex[:8]}",
        broker=f"kafka://{bootstrap_servers}",
        store="memory://",
        topic_partitions=int(partitions),
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
    )
    topic = app.topic(
        topic_name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=int(partitions),
    )
    counts = app.Table("counts", default=int, partitions=int(partitions))
    seen = 0

    @app.agent(topic)
    async def count(stream: Any) -> None:
        nonlocal seen
        told = 0.0
        async for value in stream:
            message = orjson.loads(value)
            row = message.get("row")
            if row is not None:
                counts[row["call_id"]] += 1
            seen += 1
            if seen % 500 == 0 or time.monotonic() - told > 0.2:
                told = time.monotonic()
                print("counted", seen, flush=True)

    worker = faust.Worker(app, loglevel="error")
    app.conf.web_enabled = False
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
