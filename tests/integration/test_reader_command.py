"""`cdrstream reader` and what is done by hand before it, as an operator types them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops.stack import PostgresServer, ServerSpec, Stack
from stream_app.migrations import create_event_schema
from tests.cli_kit import admins, cdrstream, service, until, write_config
from tests.reader_kit import INSERT, read_topic

pytestmark = pytest.mark.timeout(600)


def arrived(stack: Stack, topic: str) -> Counter[int]:
    records = read_topic(stack.broker.bootstrap_servers, topic)
    return Counter(record.row["id"] for record in records if record.kind == "event")


def write(server: PostgresServer, rows: int) -> set[int]:
    with server.connect() as conn:
        before = ids(conn)
        conn.execute(INSERT, (rows,))
        return ids(conn) - before


def ids(conn: psycopg.Connection[Any]) -> set[int]:
    return {row[0] for row in conn.execute("SELECT id FROM call_state_events")}


def test_from_now_leaves_out_what_is_there_once(stack: Stack, tmp_path: Path) -> None:
    server = stack["a"]
    config = write_config(tmp_path / "fromnow.toml", stack, [server])
    topic = "fromnow.call-state-events"
    create_event_schema(server.dsn)
    old = write(server, 20)
    assert cdrstream("provision", *admins([server]), config=config).returncode == 0
    with service("reader", "--from-now", config=config, log=tmp_path / "first.log") as reader:
        new = write(server, 5)
        until(lambda: new <= set(arrived(stack, topic)))
    assert reader.returncode == 0, (tmp_path / "first.log").read_text()
    away = write(server, 7)
    # It is for the very first start: what was written while the reader was away is read.
    with service("reader", "--from-now", config=config, log=tmp_path / "second.log"):
        until(lambda: away <= set(arrived(stack, topic)))
    # ... and what was left out stays so.
    with service("reader", config=config, log=tmp_path / "third.log"):
        last = write(server, 3)
        until(lambda: last <= set(arrived(stack, topic)))
    assert set(arrived(stack, topic)) == new | away | last
    assert not old & set(arrived(stack, topic))


def rights(server: PostgresServer, database: str, role: str) -> set[tuple[str, ...]]:
    with server.connect(database) as conn:
        found = conn.execute(
            "SELECT relname, privilege_type, is_grantable FROM pg_class,"
            " aclexplode(relacl) WHERE grantee = %s::regrole"
            " UNION SELECT datname, privilege_type, is_grantable FROM pg_database,"
            " aclexplode(datacl) WHERE grantee = %s::regrole AND datname = current_database()",
            (role, role),
        ).fetchall()
    return {
        (str(name).replace(database, "DATABASE"), right, str(more)) for name, right, more in found
    }


def test_what_print_sql_prints_makes_what_provision_makes(stack: Stack, tmp_path: Path) -> None:
    by_hand = stack.add_server(ServerSpec("hand"))
    by_command = stack["b"]
    for server in (by_hand, by_command):
        create_event_schema(server.dsn)
        server.create_database("cdrs")
    config = write_config(tmp_path / "hand.toml", stack, [by_hand, by_command])

    def sink(server: PostgresServer) -> tuple[str, str]:
        return "--set", f"sink.dsn={server.dsn_for('cdrs', user='cdr_writer')}"

    printed = cdrstream(
        "provision", "--server", "hand", "--print-sql", *sink(by_hand), config=config
    )
    assert printed.returncode == 0, printed.stderr
    first, second = printed.stdout.split("-- sink, ")
    for database, text in (("SIPXCDR", first), ("cdrs", "-- " + second)):
        with by_hand.connect(database) as conn:
            conn.execute(text.encode())
    admin = f"--admin-dsn=sink={by_command.dsn_for('cdrs')}"
    done = cdrstream(
        "provision", "--server", "b", admin, *admins([by_command]), *sink(by_command), config=config
    )
    assert done.returncode == 0, done.stdout
    for database, role in (("SIPXCDR", "cdr_reader"), ("cdrs", "cdr_writer")):
        wanted = rights(by_command, database, role)
        assert wanted
        assert rights(by_hand, database, role) == wanted

    admin = f"--admin-dsn=sink={by_hand.dsn_for('cdrs')}"
    again = cdrstream(
        "provision", "--server", "hand", admin, *admins([by_hand]), *sink(by_hand), config=config
    )
    changed = [line for line in again.stdout.splitlines() if not line.startswith("already there")]
    assert [line.split("hand: ")[-1] for line in changed] == ["slot cdrstream_hand created"]
