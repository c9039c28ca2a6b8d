"""Backfill: the rows that were in the tables before the slot was.

Owns reading a table in the order of its ids, inside one snapshot, by a server-side cursor, and how
far that has got in Kafka. Refuses to know how the slot was made.

With the snapshot that the slot exported, backfill and stream together have every row once. Taken up
again after a crash the exported snapshot is gone: a new one, younger than the slot, shows every row
that the old one showed (and rows that stream as well: the same (server, id) twice, which is
harmless). Ids below the last one done need no second look: what the old snapshot did not show of
them was committed after the slot was made, and streams.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from cdc.connect import Connection
from cdc.errors import classify
from cdc.pgoutput import Chunk, EnvelopePrefix, Route
from cdc.queries import fetch_one
from cdc.rows import Column, RowEncoder

logger = logging.getLogger(__name__)


class Slice(NamedTuple):
    """Rows of one FETCH, and the id that ends them."""

    table: str
    last_id: int
    chunk: Chunk


class Backfill:
    """One run over the tables.

    Args:
        conn: An ordinary connection; it is inside the snapshot's transaction while running.
        routes: Where each table's rows go.
        prefix: Prints envelopes; its clock should say `late`.
        lsn: Stamped on every row: where the slot begins.
        rows: Of one FETCH.
        codec: Of a database that is not UTF-8: its bytes are taken as they are and decoded here.
    """

    def __init__(
        self,
        conn: Connection,
        server: str,
        routes: dict[str, Route],
        prefix: EnvelopePrefix,
        lsn: int,
        rows: int,
        *,
        codec: str | None,
    ) -> None:
        self._conn = conn
        self._server = server
        self._routes = routes
        self._prefix = prefix
        self._lsn = lsn
        self._rows = rows
        self._codec = codec

    async def begin(self, snapshot: str | None) -> None:
        """Opens the transaction: in the exported snapshot, or in one of now.

        Raises:
            CdcError: The snapshot is gone, or the connection.
        """
        await self._run("begin isolation level repeatable read read only")
        if snapshot is not None:
            await self._run(
                sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)).as_string()
            )
        if self._codec is not None:
            await self._run("set local client_encoding to 'SQL_ASCII'")
        await fetch_one(self._conn, "select 1")  # the snapshot is taken by the first statement

    async def expected_rows(self, tables: Sequence[str]) -> int:
        """The planner's estimate of how many rows there are."""
        (rows,) = await fetch_one(
            self._conn,
            "select coalesce(sum(greatest(reltuples, 0)), 0)::int8 from pg_class"
            " where oid = any(select to_regclass(name)::oid from unnest(%s::text[]) as name)",
            (list(tables),),
        )
        return int(rows)

    async def slices(self, table: str, after_id: int | None) -> AsyncIterator[Slice]:
        """The rows of `table` with a higher id than `after_id`, in the order of their ids.

        Raises:
            CdcError: The connection is gone; begin again behind the last id that arrived.
        """
        route = self._routes[table]
        name = sql.Identifier(table)
        where = sql.SQL("") if after_id is None else sql.SQL("where id > {}").format(after_id)
        await self._run(
            sql.SQL("declare backfill no scroll cursor for select * from {} {} order by id")
            .format(name, where)
            .as_string()
        )
        encoder: RowEncoder | None = None
        id_at = 0
        while True:
            result = await self._fetch()
            if encoder is None:
                codec = self._codec or "utf-8"
                columns = _columns(result, codec)
                encoder = RowEncoder(columns, route.key_column, codec)
                id_at = [column.name for column in columns].index("id")
            if not result.ntuples:
                break
            last = result.get_value(result.ntuples - 1, id_at)
            yield Slice(table, int(last or b"0"), self._chunk(result, encoder, route))
        await self._run("close backfill")

    async def end(self) -> None:
        """Ends the transaction, so that the server may clean up behind it."""
        await self._run("commit")

    def _chunk(self, result: psycopg.pq.abc.PGresult, encoder: RowEncoder, route: Route) -> Chunk:
        before_row = self._prefix.build(self._lsn, None)
        chunk = Chunk()
        every_column = range(result.nfields)
        value_of = result.get_value
        for row_at in range(result.ntuples):
            row, key = encoder.encode_values([value_of(row_at, at) for at in every_column])
            value = before_row + row + b"}"
            if route.key_column is None:
                key = self._server
            chunk.records.append((route.topic, key, value))
            chunk.size_bytes += len(value) + len(key)
        return chunk

    async def _fetch(self) -> psycopg.pq.abc.PGresult:
        try:
            # Never prepared: the plan would be that of the table before.
            cursor = await self._conn.execute(
                f"fetch {self._rows} from backfill".encode(), prepare=False
            )
        except psycopg.Error as error:
            raise classify(error) from error
        result = cursor.pgresult
        assert result is not None
        return result

    async def _run(self, statement: str) -> None:
        try:
            await self._conn.execute(statement.encode())
        except psycopg.Error as error:
            raise classify(error) from error


def _columns(result: psycopg.pq.abc.PGresult, codec: str) -> list[Column]:
    return [
        Column((result.fname(at) or b"").decode(codec, "replace"), result.ftype(at))
        for at in range(result.nfields)
    ]
