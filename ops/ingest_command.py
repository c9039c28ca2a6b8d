"""How the options of `ingest` meet the configuration.

Owns that. Refuses to read files and to know Kafka: `ops.ingest` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from callstate.events import Clock
from ops.errors import UsageError
from ops.file_events import IngestOptions
from ops.ingest import run
from ops.invocation import Invocation


def run_ingest(
    invocation: Invocation,
    files: Sequence[str],
    *,
    server: str,
    form: str,
    columns: str | None,
    offset_ms: float | None,
    error_ms: float,
    strict: bool,
) -> None:
    """`cdrstream ingest`; the server need not be configured: it may only ship files."""
    if not server.strip():
        raise UsageError("--server: a name is needed; it is part of every row's identity")
    kafka = invocation.config.kafka
    clock = None
    if offset_ms is not None:
        if not (math.isfinite(offset_ms) and math.isfinite(error_ms) and error_ms >= 0):
            raise UsageError("--offset-ms and --error-ms: must be milliseconds, the error >= 0")
        clock = Clock(late=True, error_us=round(error_ms * 1e3), offset_us=round(offset_ms * 1e3))
    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    options = IngestOptions(server, form, names, clock)
    run(kafka.client_properties(), kafka.events_topic, files, options, strict=strict)
