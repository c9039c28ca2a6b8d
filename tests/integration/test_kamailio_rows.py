"""A real Kamailio before a real PostgreSQL: what strangers send is a row, and calls never wait."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from ops.demo_kamailio.phones import Ports
from ops.demo_kamailio.place import let_proxies_write
from ops.demo_kamailio.proxy import Proxy
from ops.stack import PostgresServer, Stack
from ops.stack.debian import find_sip
from ops.stack.ports import HOST
from ops.stack.processes import wait_until

SCHEMA = Path("stream_app/schema/0001_sipxcdr_version_7.sql")
SLOW_SECONDS = 1.0
AGAIN_SECONDS = 2.0
TRIES = 5
ROWS = "SELECT count(*) FROM call_state_events"


class Caller:
    """Sends datagrams as they are, from where the other proxy would be: 404 is certain."""

    def __init__(self, proxy: Proxy, port: int) -> None:
        self._proxy = proxy
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, port))
        self._socket.settimeout(AGAIN_SECONDS)
        self.port = port

    def invite(self, call_id: str, **changed: str | bytes) -> tuple[int, float]:
        """An INVITE that the proxy refuses; its final status, and after how many seconds.

        Headers by name (`_` for `-`) replace those of an ordinary one, and empty ones go.
        """
        headers: dict[str, str | bytes] = {
            "Via": f"SIP/2.0/UDP {HOST}:{self.port};branch=z9hG4bK{call_id}",
            "From": "<sip:caller@example.com>;tag=c1",
            "To": "<sip:nobody@example.com>",
            "Call-ID": call_id,
            "CSeq": "1 INVITE",
            "Contact": f"<sip:caller@{HOST}:{self.port}>",
            "Max-Forwards": "70",
            "Content-Length": "0",
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        lines = [b"INVITE sip:nobody@example.com SIP/2.0"]
        for name, value in headers.items():
            raw = value.encode() if isinstance(value, str) else value
            if raw:
                lines.append(name.encode() + b": " + raw)
        message = b"\r\n".join([*lines, b"", b""])
        for _ in range(TRIES):
            begun = time.monotonic()
            self._socket.sendto(message, (HOST, self._proxy.port))
            with suppress(TimeoutError):
                while True:
                    status = int(self._socket.recv(65_535).split(b" ", 2)[1])
                    if status >= 200:
                        return status, time.monotonic() - begun
        raise AssertionError(f"nobody answers {call_id}")

    def close(self) -> None:
        self._socket.close()


@contextmanager
def proxied(tmp_path: Path, **options: Any) -> Iterator[tuple[PostgresServer, Proxy, Caller]]:
    free = Ports()
    peer_port = free.pick()
    with Stack(1, broker=None) as stack:
        server = stack["a"]
        with server.connect() as connection:
            connection.execute(SCHEMA.read_bytes())
        let_proxies_write(server.dsn)
        proxy = Proxy(
            "a",
            find_sip(),
            tmp_path,
            port=free.pick(),
            peer_port=peer_port,
            database_port=server.port,
            dsn=server.dsn,
            **options,
        )
        caller = Caller(proxy, peer_port)
        try:
            proxy.start()
            yield server, proxy, caller
        finally:
            caller.close()
            proxy.stop()


def rows_of(server: PostgresServer, call_id: str, count: int) -> list[dict[str, Any]]:
    with server.connect(row_factory=dict_row) as connection:
        found: list[dict[str, Any]] = []

        def there() -> bool:
            query = "SELECT * FROM call_state_events WHERE call_id = %s ORDER BY id"
            found[:] = connection.execute(query, [call_id]).fetchall()
            return len(found) >= count

        assert wait_until(there, 10), (call_id, found)
    return found


LONG = '"' + "x" * 4_000 + "\" <sip:o'brien@example.com>"
SQL = "\"'); DELETE FROM call_state_events; --\\' $(var(x)) $ru %s\" <sip:'||version()||'@x>"
HOSTILE: dict[str, tuple[dict[str, str | bytes], dict[str, Any]]] = {
    "sql": ({"From": SQL + ";tag=c1"}, {"from_url": SQL + ";tag=c1", "from_tag": "c1"}),
    "not-utf-8": (
        {"From": b'"J\xfcrgen \\\\" <sip:j@x>;tag=c1'},
        {"from_url": '"J\\374rgen \\\\\\\\" <sip:j@x>;tag=c1'},
    ),
    "utf-8": ({"From": '"中 ü" <sip:j@x>;tag=c1'}, {"from_url": '"中 ü" <sip:j@x>;tag=c1'}),
    "long": (
        {"From": LONG + ";tag=c1", "To": LONG, "Contact": LONG},
        {"from_url": LONG + ";tag=c1", "to_url": LONG, "contact": LONG},
    ),
    "tag-in-name": (
        {"From": '";tag=x, \\"y" <sip:j@x>; tag=c1'},
        {"from_url": '";tag=x, \\"y" <sip:j@x>; tag=c1', "from_tag": "c1"},
    ),
    "cseq-beyond-int4": ({"CSeq": "4294967295 INVITE"}, {"cseq": 2_147_483_647}),
    "cseq-of-31-bits": ({"CSeq": "2147483646 INVITE"}, {"cseq": 2_147_483_646}),
    "short-names": (
        {"From": "", "f": "<sip:j@x>;tag=c2", "Contact": "", "m": "<sip:j@y>"},
        {"from_url": "<sip:j@x>;tag=c2", "from_tag": "c2", "contact": "<sip:j@y>"},
    ),
    "references": (
        {"References": "a;rel=chain, b;rel=chain"},
        {"reference": "a;rel=chain, b;rel=chain"},
    ),
    "unbalanced": ({"From": '"x <sip:j@x>;tag=c1'}, {"from_url": '"x <sip:j@x>;tag=c1'}),
    "tab-and-bell": ({"From": '"a\tb\ac" <sip:j@x>;tag=c1'}, {"from_tag": "c1"}),
}


@pytest.mark.timeout(120)
def test_whatever_strangers_send_is_a_row(tmp_path):
    with proxied(tmp_path) as (server, proxy, caller):
        via = f"SIP/2.0/UDP {HOST}:{caller.port};branch=z9hG4bKfolded, SIP/2.0/UDP 1.2.3.4"
        folded = ({"Via": via}, {"branch_id": "z9hG4bKfolded", "via_count": 2})
        for call_id, (headers, expected) in {**HOSTILE, "folded-vias": folded}.items():
            assert caller.invite(call_id, **headers)[0] == 404
            request, refusal = rows_of(server, call_id, 2)
            assert {name: request[name] for name in expected} == expected, call_id
            assert (request["event_type"], refusal["event_type"]) == ("R", "F")
            assert (refusal["failure_status"], refusal["failure_reason"]) == (404, "Not Found")
            assert refusal["branch_id"] == request["branch_id"]
            assert refusal["via_count"] == request["via_count"]
        assert proxy.refused_rows() == []


@pytest.mark.timeout(120)
def test_rows_wait_for_the_database_and_calls_do_not(tmp_path):
    with proxied(tmp_path) as (server, proxy, caller):
        server.stop("immediate")
        calls = [f"away-{number}" for number in range(5)]
        told = [caller.invite(call_id) for call_id in calls]
        assert all(status == 404 and seconds < SLOW_SECONDS for status, seconds in told)
        server.start()
        for call_id in calls:
            rows_of(server, call_id, 2)
        with server.connect() as connection:
            ordered = connection.execute(
                "SELECT event_seq, event_time FROM call_state_events ORDER BY id"
            ).fetchall()
        assert ordered == sorted(ordered)
        assert [seq for seq, _ in ordered] == list(range(1, 11))
        assert proxy.refused_rows() == []


@pytest.mark.timeout(120)
def test_a_database_that_was_restarted_between_two_calls_loses_no_row(tmp_path):
    """The writer does not know yet that its connection is gone: its next row fails once."""
    with proxied(tmp_path) as (server, proxy, caller):
        caller.invite("before")
        rows_of(server, "before", 2)
        server.stop("fast")
        server.start()
        caller.invite("after")
        rows_of(server, "after", 2)
        assert proxy.refused_rows() == []


@pytest.mark.timeout(120)
def test_a_proxy_starts_without_its_database(tmp_path):
    with proxied(tmp_path) as (server, proxy, caller):
        proxy.kill()
        server.stop("fast")
        proxy.launch()
        assert caller.invite("early")[0] == 404
        server.start()
        rows_of(server, "early", 2)
        starts = "SELECT count(*) FROM observer_state_events WHERE status = 101"
        assert wait_until(lambda: proxy.rows(starts) == 2, 10)


@pytest.mark.timeout(120)
def test_a_full_queue_loses_the_oldest_rows(tmp_path):
    with proxied(tmp_path, queue_rows=4) as (server, proxy, caller):
        server.stop("fast")
        for number in range(6):
            assert caller.invite(f"away-{number}")[0] == 404
        server.start()
        rows_of(server, "away-5", 2)
        # four of the queue, and perhaps the one that the writer held already
        assert proxy.rows(ROWS) in (4, 5)


@pytest.mark.timeout(120)
def test_a_row_that_cannot_be_written_stops_no_other(tmp_path):
    with proxied(tmp_path) as (server, proxy, caller):
        with server.connect() as connection:
            connection.execute("ALTER TABLE call_state_events ADD CHECK (call_id <> 'unwanted')")
        caller.invite("unwanted")
        caller.invite("wanted")
        rows_of(server, "wanted", 2)
        assert proxy.rows(ROWS) == 2
        assert len(proxy.refused_rows()) == 2


def test_a_proxy_may_add_rows_and_nothing_else(tmp_path):
    with Stack(1, broker=None) as stack:
        server = stack["a"]
        with server.connect() as connection:
            connection.execute(SCHEMA.read_bytes())
        for _ in range(2):  # it can be run again
            let_proxies_write(server.dsn)
        with psycopg.connect(server.dsn_for(user="kamailio"), autocommit=True) as connection:
            added = (
                "INSERT INTO observer_state_events (observer, event_seq, event_time, status)"
                " VALUES ('x', 0, now(), 101)"
            )
            connection.execute(added)
            for forbidden in ("SELECT * FROM call_state_events", "DELETE FROM call_state_events"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(forbidden)  # type: ignore[arg-type]
