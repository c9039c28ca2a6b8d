"""`cdrstream purge`: old CDRs leave the sink, and with `--servers` old events their servers.

Owns the rule for the servers: no row goes that the reader has not confirmed. A batch of old rows is
looked up, then the server's log position is read, and the rows are deleted when the reader's slot
has confirmed that position: whatever was visible before is in Kafka then. A reader that still fills
up from the table, or that stands still, keeps everything where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg

from ops.config import reader_settings, worker_settings
from ops.errors import ConfigError, OpsError

if TYPE_CHECKING:
    from ops.config import Config

_ROWS: Final = 5_000
_LOOK_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 10

_OLD: Final = """
SELECT id FROM call_state_events
WHERE event_time < now() AT TIME ZONE 'UTC' - make_interval(secs => %s)
ORDER BY event_time LIMIT %s
"""
_CONFIRMED: Final = """
SELECT coalesce(confirmed_flush_lsn >= %s::pg_lsn, false) FROM pg_replication_slots
WHERE slot_name = %s
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one database; `kept` says why rows that are old stay, `''` where none do."""

    name: str
    rows: int
    kept: str = ""


def purge_sink(config: Config) -> Outcome:
    """CDRs, reasons and gaps, older than the retention.

    Raises:
        ConfigError: The sink is not configured.
        SinkUnavailable: The database is away.
    """
    from stream_app.retention import purge  # noqa: PLC0415  on demand

    settings = worker_settings(config)
    if not settings.retention_days:
        return Outcome("sink", 0, "retention.enabled is false")
    done = purge(settings.sink_dsn, settings.retention_days, schema=settings.sink_schema)
    return Outcome(
        "sink", done.calls + done.hidden + done.gaps, "another purger is at it" if done.busy else ""
    )


def purge_servers(config: Config) -> Iterator[Outcome]:
    """Events of all configured servers, one after the other.

    Raises:
        ConfigError: No server is configured.
    """
    if not config.servers:
        raise ConfigError("servers: no server is configured", "add a [[servers]] table")
    for name in config.servers:
        if not config.retention.enabled:
            yield Outcome(name, 0, "retention.enabled is false")
            continue
        try:
            yield purge_server(config, name)
        except psycopg.errors.InsufficientPrivilege as error:
            advice = "`cdrstream provision --purge` gives the right to delete"
            yield Outcome(name, 0, f"{_one_line(error)}: {advice}")
        except psycopg.Error as error:
            yield Outcome(name, 0, _one_line(error))


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())[:200]


def purge_server(
    config: Config,
    name: str,
    *,
    rows: int = _ROWS,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> Outcome:
    """Events of one server, in transactions of `rows`; see the module for what stays.

    Raises:
        psycopg.Error: The server is away or refuses.
    """
    from cdc import position_store  # noqa: PLC0415  on demand

    settings = reader_settings(config, name)
    position = position_store.load(settings.kafka, settings.topics.positions, name, 15.0)
    if position is None:
        return Outcome(name, 0, "its reader has never stored a position")
    if position.backfilling:
        return Outcome(name, 0, "its reader is still reading the table")
    seconds = config.retention.event_days * 86_400
    deleted = 0
    with psycopg.connect(
        purge_dsn(config, name),
        autocommit=True,
        connect_timeout=_CONNECT_SECONDS,
        application_name="cdrstream purge",
        options=_OPTIONS,
    ) as connection:
        while True:
            ids = [row[0] for row in connection.execute(_OLD, (seconds, rows))]
            if not ids:
                return Outcome(name, deleted)
            lsn = _only(connection, "SELECT pg_current_wal_insert_lsn()::text")
            confirmed = partial(_confirmed, connection, lsn, position.slot)
            if not _wait(confirmed, patience_seconds):
                kept = f"its reader has not confirmed {lsn}: is it running?"
                return Outcome(name, deleted, kept)
            gone = connection.execute("DELETE FROM call_state_events WHERE id = ANY(%s)", (ids,))
            deleted += gone.rowcount


def purge_dsn(config: Config, name: str) -> str:
    """How the purge connects to a server: as a role of its own, else as the reader."""
    server = config.server(name)
    return (server.purge_dsn or server.dsn).get_secret_value()


_OPTIONS: Final = "-c timezone=UTC -c statement_timeout=60s -c lock_timeout=5s"


def _confirmed(connection: psycopg.Connection[Any], lsn: str, slot: str) -> bool:
    return bool(_only(connection, _CONFIRMED, lsn, slot))


def _only(connection: psycopg.Connection[Any], statement: str, *values: Any) -> Any:
    row = connection.execute(statement.encode(), values).fetchone()
    return None if row is None else row[0]


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def run(config: Config, *, servers: bool) -> None:
    """Purges and says what was done; rows that are old and stay are a failure.

    Raises:
        OpsError: Something could not be purged.
    """
    outcomes = list(purge_servers(config)) if servers else [purge_sink(config)]
    for outcome in outcomes:
        kept = f"; kept: {outcome.kept}" if outcome.kept else ""
        print(f"{outcome.name}: {outcome.rows} rows purged{kept}")
    wrong = [outcome.name for outcome in outcomes if outcome.kept and config.retention.enabled]
    if wrong:
        raise OpsError(f"not all was purged: {', '.join(wrong)}", "see above, and run it again")
