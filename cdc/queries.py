"""Asking PostgreSQL, with its errors as ours.

Owns three ways to fetch. Refuses to know what is asked.
"""

from __future__ import annotations

from typing import Any

import psycopg

from cdc.connect import Connection
from cdc.errors import ServerUnreachable, classify


async def fetch_all(conn: Connection, query: Any, params: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a query, psycopg's errors as ours."""
    try:
        cursor = await conn.execute(query, params)
        rows = await cursor.fetchall()
    except psycopg.Error as error:
        raise classify(error) from error
    # A SQL_ASCII session gives text as bytes.
    return [
        tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in row)
        for row in rows
    ]


async def fetch_opt(conn: Connection, query: Any, params: Any = None) -> tuple[Any, ...] | None:
    """The first row, if there is one."""
    rows = await fetch_all(conn, query, params)
    return rows[0] if rows else None


async def fetch_one(conn: Connection, query: Any, params: Any = None) -> tuple[Any, ...]:
    """The first row of a query that always has one."""
    row = await fetch_opt(conn, query, params)
    if row is None:
        raise ServerUnreachable("the server answered without a row")
    return row
