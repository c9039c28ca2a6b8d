"""`cdrstream active`: who is talking now, as the workers last wrote it to the sink.

Owns the printing. A few seconds old, and only as far as the watermark's events have come.
"""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from ops.config import Config, worker_settings
from ops.visible import visible


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
    now = datetime.now(UTC)
    if as_json:
        told = [
            {**call._asdict(), "duration_seconds": (now - call.connect_time).total_seconds()}
            for call in calls
        ]
        print(orjson.dumps({"v": 1, "calls": told}).decode())
        return
    for call in calls:
        seconds = max(0.0, (now - call.connect_time).total_seconds())
        to = visible(call.callee_aor)
        print(f"{seconds:9.1f} s  {visible(call.caller_aor)} -> {to}  {visible(call.recipient)}")
    print(f"{len(calls)} call{'' if len(calls) == 1 else 's'} in progress")
