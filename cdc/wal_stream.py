"""The COPY-BOTH stream of a walsender, over psycopg's libpq handle.

Owns START_REPLICATION, reading without blocking the event loop, and standby status messages.
Refuses to read what the messages say (`pgoutput`) and to decide what is confirmed (`positions`).
psycopg has no replication API; this is the whole of what it takes.
"""

from __future__ import annotations

import asyncio
import time
from struct import Struct

import psycopg
from psycopg import pq

from cdc.connect import Connection
from cdc.errors import ServerUnreachable, classify
from cdc.lsn import lsn_text

_status = Struct(">cQQQqB").pack
_DRAIN_BYTES_MAX = 4 * 1024 * 1024  # rows may be a megabyte each
_EPOCH_2000_US = 946_684_800_000_000


class WalStream:
    """One running replication stream. Use `start`, then `drain` and `confirm` from one task each.

    Back-pressure is simply not calling `drain`: the socket is watched only inside it.
    """

    def __init__(self, conn: Connection, drain_messages_max: int) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn
        self._loop = asyncio.get_running_loop()
        self._drain_max = drain_messages_max
        self._dry = True

    @property
    def dry(self) -> bool:
        """The last `drain` took all there was."""
        return self._dry

    @classmethod
    async def start(
        cls, conn: Connection, slot: str, publication: str, lsn: int, drain_messages_max: int
    ) -> WalStream:
        """Starts streaming behind `lsn` (0: where the slot is).

        Raises:
            CdcError: What PostgreSQL says, by its retry rule.
        """
        quoted = publication.replace('"', '""').replace("'", "''")
        # The simple protocol: a walsender knows no parameters.
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)}'
            f" (proto_version '1', publication_names '\"{quoted}\"')"
        )
        try:
            await conn.execute(command.encode())
        except psycopg.Error as error:
            raise classify(error) from error
        conn.pgconn.nonblocking = 1
        return cls(conn, drain_messages_max)

    async def drain(self) -> list[memoryview]:
        """Waits for messages and takes what is there, at most `drain_messages_max`.

        Raises:
            CdcError: The stream ended; the server's words, by their retry rule.
        """
        messages: list[memoryview] = []
        while True:
            self._take(messages)
            if messages:
                return messages
            await self._readable()

    def _take(self, messages: list[memoryview]) -> None:
        pgconn, room, size_bytes = self._pgconn, self._drain_max, 0
        try:
            while True:
                if self._dry:
                    pgconn.consume_input()
                before = len(messages)
                while True:
                    size, data = pgconn.get_copy_data(1)
                    if size <= 0:
                        break
                    messages.append(data)
                    size_bytes += size
                    if len(messages) >= room or size_bytes >= _DRAIN_BYTES_MAX:
                        self._dry = False  # libpq may hold more: do not wait for the socket
                        return
                self._dry = True
                if size < 0:
                    self._raise_end()
                if len(messages) == before:
                    return
        except psycopg.Error as error:
            raise classify(error) from error

    def _raise_end(self) -> None:
        """The server ended COPY: its result says why."""
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        raise ServerUnreachable("the server ended the stream (it shuts down)")

    async def _readable(self) -> None:
        fd = self._pgconn.socket
        ready = asyncio.Event()
        self._loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(fd)

    def confirm(self, lsn: int, *, ask_reply: bool = False) -> None:
        """Tells the server that everything up to `lsn` is durable here.

        Never blocks: what the socket does not take now goes with the next status.

        Raises:
            CdcError: The connection is gone.
        """
        now_us = time.time_ns() // 1_000 - _EPOCH_2000_US
        try:
            self._pgconn.put_copy_data(_status(b"r", lsn, lsn, lsn, now_us, ask_reply))
            self._pgconn.flush()
        except psycopg.Error as error:
            raise classify(error) from error
