"""The stack's servers as tests need them: ready, breakable, the same again after a restart."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from ops.install.authority import issue
from ops.stack import (
    BrokerSecurity,
    BrokerSpec,
    Certificate,
    KafkaBroker,
    PortTakenError,
    ServerSpec,
    Stack,
    StackError,
    ports,
)
from ops.stack.binaries import EMBEDDED
from ops.stack.processes import wait_until
from tests.demo_process import processes_naming

pytestmark = pytest.mark.timeout(600)


def send(broker: KafkaBroker, topic: str, value: bytes) -> None:
    told: list[object] = []
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    producer.produce(topic, value, on_delivery=lambda error, _: told.append(error))
    assert producer.flush(120) == 0
    assert told == [None]


def read(broker: KafkaBroker, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 120
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            value = message.value()
            assert value is not None
            values.append(value)
    consumer.close()
    return values


def test_every_server_is_ready_for_logical_replication(stack: Stack) -> None:
    for server in stack.servers:
        with server.connect() as conn:
            shown = [
                conn.execute(f"SHOW {name}").fetchone()
                for name in ("wal_level", "max_wal_senders", "max_replication_slots", "timezone")
            ]
            assert shown == [("logical",), ("60",), ("60",), ("UTC",)]
            assert conn.execute("SELECT current_database()").fetchone() == ("SIPXCDR",)
            assert conn.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_servers_are_different_ones(stack: Stack) -> None:
    identities = set()
    for server in stack.servers:
        with server.connect() as conn:
            row = conn.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
            identities.add(row)
    assert len(identities) == len(list(stack.servers)) >= 3  # other tests may have added some


def test_nothing_listens_but_on_loopback(stack: Stack) -> None:
    addresses = set()
    for kind, loopback in (("tcp", "0100007F"), ("tcp6", "0000000000000000FFFF00000100007F")):
        for line in Path("/proc/net", kind).read_text().splitlines()[1:]:
            address, _, port = line.split()[1].partition(":")
            if line.split()[3] == "0A" and int(port, 16) in {
                stack.broker.port,
                *(server.port for server in stack.servers),
            }:
                addresses.add((address, loopback))
    assert addresses
    assert all(address == loopback for address, loopback in addresses)


@pytest.mark.parametrize("way", ["stop", "kill", "restart"])
def test_a_server_keeps_port_and_rows(extra_server, way) -> None:
    server = extra_server()
    port, pid = server.port, server.pid
    with server.connect() as conn:
        conn.execute("CREATE TABLE t AS SELECT 1 AS x")
    getattr(server, way)()
    if way != "restart":
        assert not server.alive
        with pytest.raises(psycopg.OperationalError):
            server.connect()
        server.start()
    assert server.port == port
    assert server.pid != pid
    with server.connect() as conn:
        assert conn.execute("SELECT x FROM t").fetchone() == (1,)


def test_a_frozen_server_is_silent_and_wakes(extra_server) -> None:
    server = extra_server()
    with server.connect() as conn:
        server.pause()
        answered = threading.Event()

        def ask() -> None:
            conn.execute("SELECT 1")
            answered.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert not answered.wait(0.5)
        server.resume()
        assert answered.wait(120)
        asking.join()


def test_a_frozen_server_can_be_killed_and_started(extra_server) -> None:
    server = extra_server()
    server.pause()
    server.kill()
    server.start()
    with server.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_broker_keeps_port_and_records() -> None:
    with Stack(0) as stack:
        broker = stack.broker
        broker.create_topic("t", 1)
        port = broker.port
        for number, breaks in enumerate((broker.stop, broker.kill)):
            send(broker, "t", b"%d" % number)
            breaks()
            assert not broker.alive
            broker.start()
            assert broker.port == port
        broker.pause()
        broker.resume()
        assert read(broker, "t", 2) == [b"0", b"1"]


def test_topics_are_not_made_by_a_typing_error(stack: Stack) -> None:
    metadata = stack.broker.admin().list_topics("never-provisioned", 60)
    assert metadata.topics["never-provisioned"].error is not None


def test_a_topic_for_a_test(stack: Stack, topic: Callable[..., str]) -> None:
    name = topic(partitions=3, cleanup_policy="compact")
    found = stack.broker.admin().list_topics(name, timeout=60).topics[name]
    assert len(found.partitions) == 3


def test_a_database_for_a_test(database: Callable[..., str]) -> None:
    dsn = database("b", encoding="SQL_ASCII")
    with psycopg.connect(dsn, autocommit=True) as conn:
        # psycopg does not decode what a SQL_ASCII database sends
        assert conn.execute("SHOW server_encoding").fetchone() == (b"SQL_ASCII",)
        conn.execute("SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")


def test_a_stack_that_ended_left_nothing() -> None:
    with Stack(2) as stack:
        folder = stack.folder
        used = [server.port for server in stack.servers] + [stack.broker.port]
        # three servers, each with its keeper; what a server forks is named like it for a moment
        assert wait_until(lambda: len(processes_naming(str(folder))) == 6, 60), processes_naming(
            str(folder)
        )
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert not processes_naming(str(folder))
    assert not folder.exists()
    assert all(ports.is_free(port) for port in used)


def test_an_error_inside_leaves_nothing() -> None:
    stack = Stack(1, broker=None)

    def use() -> None:
        with stack:
            (folder,) = {stack.folder}
            found.append(folder)
            raise LookupError

    found: list[Path] = []
    with pytest.raises(LookupError):
        use()
    assert not found[0].exists()
    assert not processes_naming(str(found[0]))


def test_a_port_that_is_taken_is_said_and_nothing_stays(stack: Stack, tmp_path: Path) -> None:
    taken = stack["a"].port
    # not pytest's own folder: that one is closed to the account that servers run as
    with pytest.raises(PortTakenError, match=f"port {taken} on 127.0.0.1 is taken"):
        Stack([ServerSpec("x", port=taken), ServerSpec("y")], broker=None).start()
    assert not [line for line in processes_naming("cluster_name=y") if "postgres" in line]


def test_a_port_taken_while_a_server_was_down(extra_server) -> None:
    import socket

    server = extra_server()
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)), pytest.raises(PortTakenError):
        server.start()
    server.start()
    assert server.alive


def test_two_stacks_at_once() -> None:
    stacks = [Stack(1), Stack(1)]
    errors: list[BaseException] = []

    def up(stack: Stack) -> None:
        try:
            stack.start()
        except BaseException as error:  # noqa: BLE001  told by the assertion
            errors.append(error)

    threads = [threading.Thread(target=up, args=(stack,)) for stack in stacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert errors == []
        used = [s.broker.port for s in stacks] + [s["a"].port for s in stacks]
        assert len(set(used)) == 4
        assert len({s.broker.cluster_id for s in stacks}) == 2
    finally:
        for stack in stacks:
            stack.stop()


@pytest.mark.parametrize("major", sorted(EMBEDDED))
def test_embedded_versions(extra_server, major) -> None:
    server = extra_server(version=major)
    with server.connect() as conn:
        row = conn.execute("SHOW server_version").fetchone()
        assert row is not None
        assert row[0].startswith(f"{major}.")
        conn.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")


def test_a_password_is_asked_for(extra_server) -> None:
    server = extra_server(password="it's secret")
    with server.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.dsn_for(password="wrong"))


def test_settings_go_before_the_defaults(extra_server) -> None:
    server = extra_server(settings={"wal_level": "replica", "max_slot_wal_keep_size": "64MB"})
    with server.connect() as conn:
        assert conn.execute("SHOW wal_level").fetchone() == ("replica",)
        assert conn.execute("SHOW max_slot_wal_keep_size").fetchone() == ("64MB",)


def test_a_setting_that_is_wrong_is_said(extra_server) -> None:
    with pytest.raises(Exception, match=r"did not start.*unrecognized configuration parameter"):
        extra_server(settings={"wal_levle": "logical"})


@pytest.mark.parametrize("version", [None, *EMBEDDED])
def test_a_closed_server_has_no_way_in_without_tls_and_password(
    extra_server, version, tmp_path: Path
) -> None:
    issue(tmp_path, ["postgres,127.0.0.1"])
    certificate = Certificate.of(tmp_path, "postgres")
    server = extra_server(version=version, password="hush-closed", certificate=certificate)
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    with server.connect() as conn:
        assert conn.execute(query).fetchone() == (True,)
        lines = conn.execute("SELECT type, auth_method FROM pg_hba_file_rules").fetchall()
        assert lines == [("hostssl", "scram-sha-256")]
    for wrong in ({"sslmode": "disable"}, {"password": "other"}):
        with pytest.raises(psycopg.OperationalError):
            server.connect(**wrong)
    server.kill()
    server.start()
    with server.connect() as conn:
        assert conn.execute(query).fetchone() == (True,)
    assert not (server.folder / "superuser").exists()


def test_a_closed_server_without_a_password_would_not_be_one(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="everybody may come in"):
        ServerSpec("a", certificate=Certificate.of(tmp_path, "postgres"))


def test_a_closed_broker_knows_its_users_from_the_start_and_after_a_crash(tmp_path: Path) -> None:
    issue(tmp_path, ["kafka,127.0.0.1"])
    users = {"admin": "hush-admin", "other": "hush-other"}
    security = BrokerSecurity(Certificate.of(tmp_path, "kafka"), users)
    assert "hush" not in repr(security)
    with Stack([], broker=BrokerSpec(short_lived=True, security=security)) as stack:
        broker = stack.broker
        broker.create_topic("closed", 1)
        broker.kill()
        broker.start()
        assert "closed" in broker.admin().list_topics(timeout=60).topics
        seen = AdminClient(broker.client_properties("other")).list_topics(timeout=60).topics
        assert list(seen) == [], "it is let in, and may see nothing"
        properties = broker.folder / "server.properties"
        assert "hush-admin" in properties.read_text()
        assert stat.S_IMODE(properties.stat().st_mode) == 0o600
        assert not (broker.folder / "format.args").exists()
        assert "hush" not in broker.log.read_text()
    with pytest.raises(StackError, match="cannot be"):
        BrokerSecurity(Certificate.of(tmp_path, "kafka"), {"admin": 'a"; evil'})
