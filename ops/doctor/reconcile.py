"""Does everything add up? The partitions' counters, and a sample of the servers' own rows.

Owns the two comparisons. Counters: what came in was applied, known, dropped or set aside; calls
that began are told or open. Rows: each sampled row of a server must stand in the provenance of its
call, unless the call is still open, or nobody knows who called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from ops.errors import OpsError

if TYPE_CHECKING:
    from ops.config import Config

_SAMPLE_ROWS: Final = 1_000
_OPTIONS: Final = "-c timezone=UTC -c statement_timeout=30s -c default_transaction_read_only=on"
_COUNTERS: Final = "SELECT partition, counters FROM sink_progress WHERE topic = %s ORDER BY 1"
_THROUGH: Final = (
    "SELECT (min(watermark) AT TIME ZONE 'UTC')::text FROM sink_progress WHERE topic = %s"
    " HAVING count(*) = count(watermark)"
)
# Rows that are old enough to be told whatever their call is waiting for, newest first.
_ROWS: Final = """
SELECT id, call_id FROM call_state_events
WHERE event_time < %s::timestamp - make_interval(secs => %s)
ORDER BY event_time DESC LIMIT %s
"""
_TOLD: Final = """
SELECT call_id, events_dropped, basis->'uses',
    ARRAY(SELECT (event->>'id')::int8 FROM jsonb_array_elements(events) AS event
          WHERE event->>'server' = %s AND event->>'id' IS NOT NULL)
FROM cdr_provenance WHERE call_id = ANY(%s)
"""
_SOMEBODY_CALLED: Final = (
    "SELECT DISTINCT call_id FROM call_state_events"
    " WHERE call_id = ANY(%s) AND event_type IN ('R', 'S')"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison; `wrong` is empty where it adds up, `empty` where there was nothing to it."""

    what: str
    said: str
    wrong: str = ""
    empty: bool = False


def check_counters(counters: dict[str, int]) -> tuple[str, str]:
    """What one partition's counters say, and what does not add up in them."""
    get = counters.get
    fates = ("applied", "duplicates", "dropped", "dead_letters")
    events, accounted = get("events", 0), sum(get(name, 0) for name in fates)
    told = sum(get(name, 0) for name in ("cdrs", "hidden", "nobody_called"))
    opened = get("opened", 0)
    said = f"{events} events, {opened} calls, {told} told, {opened - told} open"
    if events != accounted:
        return said, f"{events} events came in, {accounted} are accounted for"
    if told > opened:
        return said, f"{told} calls were told, only {opened} began"
    return said, ""


def reconcile(config: Config) -> Iterator[Finding]:
    """All comparisons, one after the other.

    Raises:
        ConfigError: The sink is not configured.
        psycopg.Error: A database is away.
    """
    from ops.config import worker_settings  # noqa: PLC0415  on demand

    settings = worker_settings(config)
    options = f"{_OPTIONS} -c search_path={settings.sink_schema}"
    with psycopg.connect(settings.sink_dsn, connect_timeout=5, options=options) as sink:
        rows = sink.execute(_COUNTERS, (settings.events_topic,)).fetchall()
        counted: dict[int, dict[str, int]] = dict(rows)
        for partition in sorted({*counted, *range(settings.partitions)}):
            counters = counted.get(partition)
            if counters is None:
                yield Finding(f"partition {partition}", "", "no worker has ever counted its events")
            else:
                yield Finding(f"partition {partition}", *check_counters(counters))
        row = sink.execute(_THROUGH, (settings.events_topic,)).fetchone()
        if row is None or row[0] is None:
            yield Finding("sample", "", "no watermark yet: no row could be looked up")
            return
        rules = settings.resolution
        waits = max(rules.max_call_seconds, rules.max_ringing_seconds, rules.failed_wait_seconds)
        for name in config.server_names:
            server = config.servers.get(name)
            if server is None:
                yield Finding(f"server {name}", "has no dsn here: not looked at", empty=True)
                continue
            dsn = server.dsn.get_secret_value()
            with psycopg.connect(dsn, connect_timeout=5, options=_OPTIONS) as source:
                yield _sampled(name, source, sink, row[0], waits)


def _sampled(
    name: str,
    source: psycopg.Connection[Any],
    sink: psycopg.Connection[Any],
    through: str,
    waits_seconds: float,
) -> Finding:
    rows = source.execute(_ROWS, (through, waits_seconds, _SAMPLE_ROWS)).fetchall()
    calls = sorted({call_id for _, call_id in rows})
    told: dict[str, set[int]] = {}
    bounded, uses = set(), {}
    for call_id, dropped, apart, ids in sink.execute(_TOLD, (name, calls)).fetchall():
        told[call_id] = set(ids)
        uses.update(dict.fromkeys(apart or (), call_id))
        if dropped:
            bounded.add(call_id)
    for use, _, _, ids in sink.execute(_TOLD, (name, list(uses))):
        told[uses[use]].update(ids)
    called = {row[0] for row in source.execute(_SOMEBODY_CALLED, (calls,))}
    missing = [
        row_id
        for row_id, call_id in rows
        if row_id not in told.get(call_id, ())
        and call_id not in bounded
        and (call_id in told or call_id in called)
    ]
    said = f"{len(rows)} rows looked up, {len(rows) - len(missing)} accounted for"
    wrong = (
        f"not in any provenance: row {missing[0]} and {len(missing) - 1} more" if missing else ""
    )
    return Finding(f"server {name}", said, wrong, empty=not rows)


def run(config: Config) -> None:
    """Prints all comparisons.

    Raises:
        OpsError: Something does not add up.
    """
    wrong = 0
    for finding in reconcile(config):
        wrong += bool(finding.wrong)
        mark = "WRONG " if finding.wrong else "none  " if finding.empty else "ok    "
        print(f"{mark}{finding.what}: {finding.wrong or finding.said}")
    if wrong:
        raise OpsError(
            f"{wrong} comparison(s) do not add up", "`cdrstream explain` tells of a call"
        )
