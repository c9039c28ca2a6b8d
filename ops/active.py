"""`cdrstream active`: who is talking now, as the workers last wrote it to the sink.

Owns the printing. A few seconds old, and only as far as the watermark's events have come; where
nobody writes any more, the list is of then, and it is said so.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Final

import orjson
import psycopg

from ops.config import Config, worker_settings
from ops.dsn import with_options
from ops.visible import visible

STALE_SECONDS: Final = 60.0  # progress is written every few seconds, whatever is called
_AGE: Final = """
SELECT max(extract(epoch FROM clock_timestamp() - updated_at))::float8
FROM sink_progress WHERE topic = %s
"""


def run(config: Config, name: str | None, *, as_json: bool) -> None:
    """Prints the calls in progress, the longest first.

    Raises:
        ConfigError: The sink is not configured.
        StreamAppError: The sink is away.
    """
    from stream_app.active_http import of_user  # noqa: PLC0415  on demand
    from stream_app.sink import Sink  # noqa: PLC0415

    settings = worker_settings(config)
    sink = Sink(settings.sink_dsn, schema=settings.sink_schema, name="cdrstream active")
    try:
        calls = sink.active_calls()
    finally:
        sink.close()
    if name:
        calls = of_user(calls, name)
    age = _age_seconds(settings.sink_dsn, settings.sink_schema, settings.events_topic)
    if age is None:
        sys.stderr.write("no worker has ever written: nobody knows who is talking\n")
    elif age > STALE_SECONDS:
        sys.stderr.write(f"not of now: a part was last written {age:.0f} s ago; is a worker up?\n")
    now = datetime.now(UTC)
    if as_json:
        told = [
            {**call._asdict(), "duration_seconds": (now - call.connect_time).total_seconds()}
            for call in calls
        ]
        print(orjson.dumps({"v": 1, "age_seconds": age, "calls": told}).decode())
        return
    for call in calls:
        seconds = max(0.0, (now - call.connect_time).total_seconds())
        to = visible(call.callee_aor)
        print(f"{seconds:9.1f} s  {visible(call.caller_aor)} -> {to}  {visible(call.recipient)}")
    print(f"{len(calls)} call{'' if len(calls) == 1 else 's'} in progress")


def _age_seconds(dsn: str, schema: str, topic: str) -> float | None:
    """How long ago the partition that is written least lately was; None: none ever was."""
    options = f"-c default_transaction_read_only=on -c search_path={schema}"
    with psycopg.connect(with_options(dsn, options), connect_timeout=5) as connection:
        row = connection.execute(_AGE, (topic,)).fetchone()
    return None if row is None else row[0]
