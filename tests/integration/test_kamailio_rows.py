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
SLOW_SECONDS = 5.0
AGAIN_SECONDS = 2.0
TRIES = 20
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
        begun = time.monotonic()
        for _ in range(TRIES):
            self._socket.sendto(message, (HOST, self._proxy.port))
            with suppress(TimeoutError):
                while True:
                    answer = self._socket.recv(65_535)
                    # what it gets as the other proxy may come again, and answers to other calls
                    if not answer.startswith(b"SIP/2.0 ") or call_id.encode() not in answer:
                        continue
                    status = int(answer.split(b" ", 2)[1])
                    if status >= 200:
                        return status, time.monotonic() - begun
        raise AssertionError(f"nobody answers {call_id}")

    def receive(self) -> bytes:
        """The next datagram, which it gets as the other proxy."""
        self._socket.settimeout(AGAIN_SECONDS * TRIES)
        try:
            return self._socket.recv(65_535)
        finally:
            self._socket.settimeout(AGAIN_SECONDS)

    def send(self, message: bytes) -> None:
        """As it is."""
        self._socket.sendto(message, (HOST, self._proxy.port))

    def close(self) -> None:
        self._socket.close()


class Phone:
    """Sends datagrams from elsewhere: what the proxy does not know goes to the other proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self._socket.settimeout(AGAIN_SECONDS * TRIES)
        self.port = int(self._socket.getsockname()[1])

    def send(self, method: str, call_id: str, user: str = "somebody", contact: str = "") -> None:
        """A request outside of any call."""
        contact = contact or f"<sip:phone@{HOST}:{self.port}>"
        lines = [
            f"{method} sip:{user}@example.com SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{self.port};branch=z9hG4bK{call_id}",
            f"From: <sip:{user}@example.com>;tag=p1",
            f"To: <sip:{user}@example.com>",
            f"Call-ID: {call_id}",
            f"CSeq: 1 {method}",
            f"Contact: {contact}",
            "Max-Forwards: 70",
            "Content-Length: 0",
        ]
        message = "\r\n".join([*lines, "", ""]).encode()
        self._socket.sendto(message, (HOST, self._proxy.port))

    def final(self) -> tuple[int, bytes]:
        """The next final answer, and all of it."""
        while True:
            answer = self._socket.recv(65_535)
            status = int(answer.split(b" ", 2)[1])
            if status >= 200:
                return status, answer

    def close(self) -> None:
        self._socket.close()


@contextmanager
def phoned(proxy: Proxy) -> Iterator[Phone]:
    phone = Phone(proxy)
    try:
        yield phone
    finally:
        phone.close()


def answer_to(invite: bytes, tag: str) -> bytes:
    """A 200 of the phone of that tag."""
    kept = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:", b"record-route:")
    lines = [line for line in invite.split(b"\r\n") if line.lower().startswith(kept)]
    told = [
        line + b";tag=" + tag.encode() if line.lower().startswith(b"to:") else line
        for line in lines
    ]
    return b"\r\n".join([b"SIP/2.0 200 OK", *told, b"Content-Length: 0", b"", b""])


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

        assert wait_until(there, 120), (call_id, found)
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


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
def test_each_answer_is_a_row_once_however_they_come_again(tmp_path):
    with proxied(tmp_path) as (server, proxy, peer), phoned(proxy) as phone:
        phone.send("INVITE", "answered")
        invite = peer.receive()
        for tag in ("A", "B.*", "A", "B.*", "A"):
            peer.send(answer_to(invite, tag))
            assert phone.final()[0] == 200
        peer.invite("later")  # rows are written in order
        rows_of(server, "later", 2)
        rows = rows_of(server, "answered", 3)
        told = [(row["event_type"], row["to_tag"]) for row in rows]
        assert told == [("R", ""), ("S", "A"), ("S", "B.*")]


@pytest.mark.timeout(600)
def test_an_invite_that_cannot_be_sent_on_is_a_failure(tmp_path):
    with proxied(tmp_path) as (server, proxy, _), phoned(proxy) as phone:
        # a transport that the proxy does not have
        phone.send("REGISTER", "r1", "gone", f"<sip:gone@{HOST}:{phone.port};transport=tcp>")
        assert phone.final()[0] == 200
        phone.send("INVITE", "not-sent", "gone")
        assert phone.final()[0] == 500
        request, failure = rows_of(server, "not-sent", 2)
        assert (request["event_type"], failure["event_type"]) == ("R", "F")
        assert failure["failure_status"] == 500
        assert failure["failure_reason"] == "Cannot Be Sent On"
        assert failure["branch_id"] == request["branch_id"]


FULL = """
CREATE FUNCTION full_up() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_up BEFORE INSERT ON call_state_events EXECUTE FUNCTION full_up();
"""
READ_ONLY = "ALTER ROLE kamailio {} default_transaction_read_only"
NOW = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'kamailio'"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("trouble", "cure", "sign"),
    [
        (FULL, "DROP TRIGGER full_up ON call_state_events", "no space left on device"),
        (READ_ONLY.format("SET") + " = on", READ_ONLY.format("RESET"), "read-only transaction"),
        (
            "REVOKE INSERT ON call_state_events FROM kamailio",
            "GRANT INSERT ON call_state_events TO kamailio",
            "permission denied for table",
        ),
    ],
    ids=["full", "read-only", "no-right"],
)
def test_a_database_that_can_take_no_row_is_waited_for(tmp_path, trouble, cure, sign):
    with proxied(tmp_path) as (server, proxy, caller), server.connect() as connection:
        connection.execute(trouble)
        connection.execute(NOW)
        assert caller.invite("waits")[0] == 404
        assert wait_until(lambda: sign in proxy.log.read_text(errors="replace"), 120)
        assert caller.invite("waits-too")[0] == 404
        connection.execute(cure)
        connection.execute(NOW)
        assert [row["event_type"] for row in rows_of(server, "waits", 2)] == ["R", "F"]
        assert [row["event_type"] for row in rows_of(server, "waits-too", 2)] == ["R", "F"]
        assert proxy.refused_rows() == []


@pytest.mark.timeout(600)
def test_a_table_that_is_locked_gets_each_row_once(tmp_path):
    """The server gives up before Kamailio does: what waits for the lock is not left behind."""
    with proxied(tmp_path) as (server, proxy, caller), server.connect() as connection:
        connection.execute("ALTER ROLE kamailio SET statement_timeout = '300ms'")
        connection.execute(NOW)
        with server.connect() as locker, locker.transaction():
            locker.execute("LOCK TABLE call_state_events")
            assert caller.invite("waits")[0] == 404
            sign = "canceling statement due to statement timeout"
            assert wait_until(lambda: proxy.log.read_text(errors="replace").count(sign) >= 4, 120)
        rows_of(server, "waits", 2)
        caller.invite("later")
        rows_of(server, "later", 2)
        assert proxy.rows(ROWS) == 4
        assert proxy.refused_rows() == []


@pytest.mark.timeout(600)
def test_a_proxy_starts_without_its_database(tmp_path):
    with proxied(tmp_path) as (server, proxy, caller):
        proxy.kill()
        server.stop("fast")
        proxy.launch()
        assert caller.invite("early")[0] == 404
        server.start()
        rows_of(server, "early", 2)
        starts = "SELECT count(*) FROM observer_state_events WHERE status = 101"
        assert wait_until(lambda: proxy.rows(starts) == 2, 120)


@pytest.mark.timeout(600)
def test_a_full_queue_loses_the_oldest_rows(tmp_path):
    with proxied(tmp_path, queue_rows=4) as (server, proxy, caller):
        server.stop("fast")
        for number in range(6):
            assert caller.invite(f"away-{number}")[0] == 404
        server.start()
        rows_of(server, "away-5", 2)
        # four of the queue, and perhaps the one that the writer held already
        assert proxy.rows(ROWS) in (4, 5)


@pytest.mark.timeout(600)
def test_a_row_that_cannot_be_written_stops_no_other(tmp_path):
    with proxied(tmp_path) as (server, proxy, caller):
        with server.connect() as connection:
            connection.execute("ALTER TABLE call_state_events ADD CHECK (call_id <> 'unwanted')")
        caller.invite("unwanted")
        caller.invite("wanted")
        rows_of(server, "wanted", 2)
        assert proxy.rows(ROWS) == 2
        assert len(proxy.refused_rows()) == 2
        assert "violates check constraint" in proxy.refused_rows()[0]


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
            assert connection.execute("SHOW statement_timeout").fetchone() == ("4s",)
            for forbidden in (
                "SELECT * FROM call_state_events",
                "DELETE FROM call_state_events",
                "SELECT cse_add('DELETE FROM call_state_events')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(forbidden)  # type: ignore[arg-type]
