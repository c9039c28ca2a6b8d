"""The stream's bytes -> envelopes: logical replication protocol 1 of PostgreSQL, sans-IO.

Owns the messages inside the COPY stream (XLogData, keepalive; Begin, Commit, Relation, Insert) and
which position is safe after them. Refuses to know sockets, Kafka and when to confirm.
Source: PostgreSQL manual, "Streaming Replication Protocol" and "Logical Replication Message
Formats".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple

import orjson

from callstate.envelope import VERSION, clock_message
from callstate.events import Clock
from cdc.lsn import lsn_text
from cdc.rows import BadTuple, Column, RowEncoder

_XLOG_DATA, _KEEPALIVE = ord("w"), ord("k")
_BEGIN, _COMMIT, _INSERT, _RELATION = ord("B"), ord("C"), ord("I"), ord("R")
_IGNORED: Final = frozenset(b"OTYMUD")  # origin, truncate, type, message; update, delete: see below
_HEADER_BYTES: Final = 25  # 'w', start, end, server's clock
_TUPLE_AT: Final = _HEADER_BYTES + 8  # 'I', relation, 'N', number of columns

_lsn_and_time = Struct(">QQ").unpack_from
_quad = Struct(">Q").unpack_from
_long = Struct(">I").unpack_from

_EPOCH = datetime(2000, 1, 1)
_EPOCH_US = 946_684_800_000_000  # of 2000-01-01 in microseconds since 1970
_LATE_AFTER_US = 60_000_000


class ProtocolError(ValueError):
    """The server sent a message that protocol 1 with `publish = 'insert'` does not have."""


class Route(NamedTuple):
    """Where a table's rows go: the topic, and the column that is the record's key.

    Without a key column the server's name is the key.
    """

    topic: str
    key_column: str | None


# One record, ready for Kafka: topic, key, value. A bare tuple, because one is made for each row.
Out = tuple[str, str, bytes]


@dataclass(slots=True)
class Chunk:
    """What came of some messages.

    Attributes:
        records: In log order.
        size_bytes: Of all keys and values.
        safe: Every row up to this LSN is in this chunk or an earlier one; 0: no news.
        reply_asked: The server wants a status at once.
        committed_us: When the newest transaction was committed, by the server's clock.
    """

    records: list[Out] = field(default_factory=list)
    size_bytes: int = 0
    safe: int = 0
    reply_asked: bool = False
    committed_us: int | None = None


class EnvelopePrefix:
    """Prints envelopes up to their row, by splicing: what changes per transaction is spliced in."""

    def __init__(self, server: str) -> None:
        self._head = f'{{"v":{VERSION},"server":{orjson.dumps(server).decode()},"lsn":"'
        self._second = -1
        self._second_text = ""
        self._clock = self._late_clock = "null"
        self._server_us: int | None = None
        self.clock: Clock | None = None
        self.commit_us: int | None = None  # of the newest transaction, since 1970

    def set_clock(self, clock: Clock | None, server_us: int | None = None) -> None:
        """Stamps the following envelopes.

        Args:
            clock: What the newest probe says.
            server_us: The server's own clock by now, microseconds since 1970. A transaction that
                was committed a minute or more from it is part of a backlog: the clock may have
                drifted or been set since, and the stamp says `late`.
        """
        self.clock = clock
        self._server_us = None if server_us is None else server_us - _EPOCH_US
        self._clock = self._late_clock = orjson.dumps(clock_message(clock)).decode()
        if clock is not None:
            late = clock_message(clock._replace(late=True))
            self._late_clock = orjson.dumps(late).decode()

    def build(self, lsn: int, commit_us: int | None) -> bytes:
        """Everything before the row; `commit_us` counts from 2000-01-01 UTC."""
        if commit_us is None:
            time = "null"
        else:
            second, fraction = divmod(commit_us, 1_000_000)
            if second != self._second:
                self._second = second
                self._second_text = (_EPOCH + timedelta(seconds=second)).isoformat()
            time = f'"{self._second_text}.{fraction:06d}Z"'
            self.commit_us = commit_us + _EPOCH_US
        clock = self._clock
        now_us = self._server_us
        if (
            commit_us is not None
            and now_us is not None
            and abs(now_us - commit_us) > _LATE_AFTER_US
        ):
            clock = self._late_clock
        return f'{self._head}{lsn_text(lsn)}","commit_time":{time},"clock":{clock},"row":'.encode()


class Decoder:
    """The state of one stream: relations seen, transaction open or not.

    Args:
        server: Name in every envelope.
        routes: Table name to where its rows go; other tables' rows are left out.

    Attributes:
        codec: Of the text, where the server does not convert it.
        ours: Identities of our tables; empty: any table of that name is ours.
        described: Columns of our tables as the stream described them since this was last emptied.
    """

    def __init__(self, server: str, routes: Mapping[str, Route]) -> None:
        self.server = server
        self.prefix = EnvelopePrefix(server)
        self.in_transaction = False
        self.transaction_rows = 0
        self.codec = "utf-8"
        self.ours: frozenset[int] = frozenset()
        self.described: list[tuple[str, tuple[Column, ...]]] = []
        self._routes = routes
        self._relations: dict[int, tuple[RowEncoder, Route] | None] = {}
        self._before_row = b""

    def feed(self, messages: Iterable[Any]) -> Chunk:
        """Reads messages of the COPY stream (bytes or memoryviews), in order.

        Raises:
            ProtocolError: Where a message is not what the protocol says.
        """
        try:
            return self._read(messages)
        except (IndexError, StructError) as bad:
            raise ProtocolError("a message ends early") from bad
        except OverflowError as bad:
            raise ProtocolError("a commit time that no calendar has") from bad

    def _read(self, messages: Iterable[Any]) -> Chunk:  # noqa: PLR0912  the hot loop, kept in one
        chunk = Chunk()
        records = chunk.records
        size = 0
        relations, relation_of = self._relations, _long
        before_row = self._before_row
        rows = self.transaction_rows
        for data in messages:
            if data[0] == _XLOG_DATA:
                kind = data[_HEADER_BYTES]
                if kind == _INSERT:
                    try:
                        known = relations[relation_of(data, 26)[0]]
                        if known is None:
                            continue
                        row, key = known[0].encode(data[_TUPLE_AT:])
                    except (KeyError, BadTuple) as bad:
                        raise ProtocolError(f"a row cannot be read: {bad!r}") from bad
                    value = before_row + row + b"}"
                    topic, key_column = known[1]
                    if key_column is None:
                        key = self.server
                    records.append((topic, key, value))
                    size += len(value) + len(key)
                    rows += 1
                elif kind == _BEGIN:
                    lsn, time = _lsn_and_time(data, 26)
                    before_row = self._before_row = self.prefix.build(lsn, time)
                    self.in_transaction = True
                    rows = 0
                elif kind == _COMMIT:
                    chunk.safe = _quad(data, 35)[0]
                    self.in_transaction = False
                    rows = 0
                elif kind == _RELATION:
                    self._read_relation(bytes(data[26:]))
                elif kind not in _IGNORED:
                    raise ProtocolError(f"unknown message {chr(kind)!r}")
            elif data[0] == _KEEPALIVE:
                if not self.in_transaction:
                    chunk.safe = max(chunk.safe, _quad(data, 1)[0])
                if data[17]:
                    chunk.reply_asked = True
            else:
                raise ProtocolError(f"unknown stream message {data[0]}")
        chunk.size_bytes = size
        self.transaction_rows = rows
        return chunk

    def _read_relation(self, data: bytes) -> None:
        relation = int.from_bytes(data[:4])
        try:
            _, name_end = data.index(0, 4), data.index(0, data.index(0, 4) + 1)
            name = data[data.index(0, 4) + 1 : name_end].decode("utf-8", "replace")
            at = name_end + 4  # replica identity, number of columns
            columns = []
            for _ in range(int.from_bytes(data[name_end + 2 : at])):
                end = data.index(0, at + 1)
                oid = int.from_bytes(data[end + 1 : end + 5])
                columns.append(Column(data[at + 1 : end].decode(self.codec, "replace"), oid))
                at = end + 9
        except ValueError as bad:
            raise ProtocolError("a relation message ends early") from bad
        route = self._routes.get(name)
        # A publication of all tables carries an archive of the same name in another schema, too.
        if route is None or (self.ours and relation not in self.ours):
            self._relations[relation] = None
        else:
            self._relations[relation] = (RowEncoder(columns, route.key_column, self.codec), route)
            self.described.append((name, tuple(columns)))
