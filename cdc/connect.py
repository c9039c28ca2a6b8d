"""Connections to PostgreSQL, with the session settings that the reader's guarantees hang on.

Owns the options of both kinds of connection (ordinary and walsender). Refuses to know what they are
used for.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from cdc.errors import BadDsn, ServerUnreachable, classify

Connection = psycopg.AsyncConnection[TupleRow]

# The server prints times in the session's zone and style: both are forced. `lock_timeout` bounds
# the wait for open transactions when a slot is made (statement_timeout is ignored there).
_SQL_OPTIONS = (
    "-c timezone=UTC -c datestyle=ISO,MDY -c intervalstyle=postgres -c bytea_output=hex"
    " -c extra_float_digits=1"
)
_WALSENDER_OPTIONS = "-c wal_sender_timeout={silence_ms} -c lock_timeout={lock_ms}"


async def connect_sql(dsn: str, *, connect_seconds: float, read_only: bool = True) -> Connection:
    """An ordinary connection in autocommit, read-only unless asked otherwise.

    Raises:
        CdcError: By its retry rule.
    """
    options = _SQL_OPTIONS + (" -c default_transaction_read_only=on" if read_only else "")
    return await _connect(dsn, connect_seconds, options, client_encoding="UTF8")


async def connect_walsender(
    dsn: str,
    *,
    connect_seconds: float,
    raw: bool,
    slot_wait_seconds: float,
    silence_seconds: float,
) -> Connection:
    """A connection to a walsender of the DSN's database.

    Args:
        dsn: The server's DSN.
        connect_seconds: Bound on connecting.
        raw: The database is not UTF-8: the server must not convert (it could not skip a row that
            fails), the decoder does.
        slot_wait_seconds: Bound on each lock waited for.
        silence_seconds: How long the server waits for a word from a reader that may have died with
            its machine, before it gives the slot to another one.

    Raises:
        CdcError: By its retry rule.
    """
    limits = _WALSENDER_OPTIONS.format(
        lock_ms=round(slot_wait_seconds * 1000), silence_ms=round(silence_seconds * 1000)
    )
    options = f"{_SQL_OPTIONS} {limits}"
    encoding = "SQL_ASCII" if raw else "UTF8"
    return await _connect(
        dsn, connect_seconds, options, replication="database", client_encoding=encoding
    )


async def _connect(dsn: str, connect_seconds: float, options: str, **more: Any) -> Connection:
    try:
        own = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise BadDsn(f"dsn cannot be read: {' '.join(str(error).split())}") from error
    try:
        async with asyncio.timeout(connect_seconds):
            return await psycopg.AsyncConnection.connect(
                dsn,
                autocommit=True,
                options=f"{own.get('options') or ''} {options}".strip(),
                application_name=str(own.get("application_name") or "cdrstream"),
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=30_000,
                **more,
            )
    except TimeoutError as error:
        raise ServerUnreachable(f"no connection within {connect_seconds:g} s") from error
    except psycopg.Error as error:
        raise classify(error) from error
