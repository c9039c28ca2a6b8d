"""What one PostgreSQL server says of itself, gathered over one ordinary connection.

Owns the questions. Refuses to judge the answers: `servers`, `server_tables` and `server_slot` do. A
question that the role may not ask leaves its answer None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from cdc.lsn import parse_lsn
from cdc.slot import Identity
from ops.dsn import with_options

CONNECT_SECONDS: Final = 3
STATEMENT_MS: Final = 2_500

Row = Mapping[str, Any]

_SERVER = """
SELECT current_setting('server_version_num')::int AS version_num,
    current_setting('server_version') AS version,
    current_setting('wal_level') AS wal_level,
    current_setting('max_replication_slots')::int AS slots_max,
    (SELECT count(*) FROM pg_replication_slots) AS slots_used,
    current_setting('max_wal_senders')::int AS senders_max,
    (SELECT count(*) FROM pg_stat_replication) AS senders_used,
    current_setting('max_slot_wal_keep_size') AS slot_wal_keep_size,
    current_setting('idle_replication_slot_timeout', true) AS idle_slot_timeout,
    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_replicate,
    current_user AS role,
    current_database() AS database,
    pg_encoding_to_char(encoding) AS encoding,
    inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr() AS same_machine,
    (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls,
    pg_is_in_recovery() AS in_recovery
FROM pg_database WHERE datname = current_database()
"""
_PUBLICATION = """
SELECT pubinsert, pubupdate, pubdelete, pubtruncate,
    (SELECT array_agg(tablename::text ORDER BY tablename)
     FROM pg_publication_tables WHERE pubname = p.pubname) AS tables,
    (SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_publication_tables t
     WHERE pubname = p.pubname AND to_jsonb(t) ->> 'rowfilter' IS NOT NULL) AS filtered
FROM pg_publication p WHERE pubname = %s
"""
_COLUMNS = """
SELECT attname AS name, format_type(atttypid, atttypmod) AS type
FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
_SELECTABLE = "SELECT has_table_privilege(to_regclass(%s), 'SELECT') AS may"
_SLOT = """
SELECT plugin, database, active, wal_status, safe_wal_size, slot_type,
    (SELECT application_name FROM pg_stat_activity WHERE pid = active_pid) AS read_by,
    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS retained_bytes,
    pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) AS unread_bytes
FROM pg_replication_slots WHERE slot_name = %s
"""
_OLDEST_TRANSACTION = """
SELECT extract(epoch FROM now() - min(xact_start))::float8 AS seconds,
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may_look
FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


_LOG = """
SELECT wal_bytes::float8 AS bytes,
    extract(epoch FROM now() - stats_reset)::float8 / 3600 AS hours,
    pg_size_bytes(current_setting('max_slot_wal_keep_size')) AS keep_bytes
FROM pg_stat_wal
"""
_PURGE = """
SELECT coalesce((SELECT n_tup_del FROM pg_stat_user_tables
                 WHERE relid = to_regclass('call_state_events')), 0) > 0 AS is_purged,
    extract(epoch FROM (now() AT TIME ZONE 'UTC') - min(event_time))::float8 AS oldest_seconds
FROM call_state_events
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server's answers.

    Attributes:
        server: Version, settings, capacity, rights.
        publication: Of the publication; None where there is none.
        columns: Table to column to type; a table that is not there has no columns.
        readable: Table to whether this role may SELECT it; None where there is no such table.
        slot: Of the slot; None where there is none.
        oldest_transaction: Age in seconds, and whether other users' transactions are seen.
        log: Bytes of log an hour, over how many hours, and what slots may keep of it.
        purge: Whether rows were deleted, and the oldest row's age; None where it may not be read.
    """

    server: Row
    publication: Row | None
    columns: Mapping[str, Mapping[str, str]]
    readable: Mapping[str, bool | None]
    slot: Row | None
    oldest_transaction: Row
    log: Row | None = None
    purge: Row | None = None


def gather(dsn: str, *, publication: str, slot: str, tables: tuple[str, ...]) -> ServerFacts:
    """Asks one server everything.

    Raises:
        psycopg.Error: It cannot be connected to, or does not answer in time.
    """
    with connect(dsn) as connection:

        def one(query: str, *parameters: str) -> Row | None:
            return connection.execute(query, parameters or None).fetchone()

        def optional(query: str) -> Row | None:
            """None where it may not be asked, takes too long, or the table is another one."""
            try:
                return one(query)
            except psycopg.Error:
                if connection.closed:
                    raise
                return None

        server = one(_SERVER)
        assert server is not None
        return ServerFacts(
            server=server,
            publication=one(_PUBLICATION, publication),
            columns={
                table: {row["name"]: row["type"] for row in connection.execute(_COLUMNS, (table,))}
                for table in tables
            },
            readable={table: (one(_SELECTABLE, table) or {}).get("may") for table in tables},
            slot=None if server["in_recovery"] else one(_SLOT, slot),
            oldest_transaction=one(_OLDEST_TRANSACTION) or {},
            log=optional(_LOG) if server["version_num"] >= 140_000 else None,
            purge=optional(_PURGE),
        )


def connect(dsn: str) -> psycopg.Connection[dict[str, Any]]:
    """A read-only connection that gives up by itself."""
    options = f"-c statement_timeout={STATEMENT_MS} -c default_transaction_read_only=on"
    return psycopg.connect(
        with_options(dsn, options),
        connect_timeout=CONNECT_SECONDS,
        autocommit=True,
        application_name="cdrstream doctor",
        row_factory=dict_row,
    )


def identify(dsn: str) -> Identity:
    """Connects as a reader does, and asks which history of which server this is.

    Raises:
        psycopg.Error: The role, pg_hba.conf or the server's capacity does not allow it.
    """
    connection = psycopg.connect(
        dsn,
        connect_timeout=CONNECT_SECONDS,
        autocommit=True,
        replication="database",
        application_name="cdrstream doctor",
    )
    with connection:
        row = connection.execute("IDENTIFY_SYSTEM").fetchone()
        assert row is not None
        return Identity(str(row[0]), int(row[1]), parse_lsn(str(row[2])))
