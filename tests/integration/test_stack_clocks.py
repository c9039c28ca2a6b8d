"""Servers with a wrong clock: wrong as told, alike in every backend, and otherwise well."""

from __future__ import annotations

import time

import psycopg
import pytest

from ops.stack import PostgresServer, StackError

pytestmark = pytest.mark.timeout(600)
PROBES = 15
QUICK_SECONDS = 0.01  # a probe that took longer says too little: it is made again
PATIENCE_SECONDS = 60.0
TOLERANCE_SECONDS = 0.02


def probed(server: PostgresServer, conn: psycopg.Connection[object]) -> tuple[float, float]:
    """By how much the server's clock is ahead of ours, and by how much it should be then.

    By the quickest of several probes, and of as many as it takes until one was quick.
    """
    best = (float("inf"), 0.0, 0.0)
    deadline = time.monotonic() + PATIENCE_SECONDS
    probes = 0
    while probes < PROBES or (best[0] > QUICK_SECONDS and time.monotonic() < deadline):
        probes += 1
        before = time.time()
        row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        wanted = server.clock_offset_seconds
        after = time.time()
        assert isinstance(row, tuple)
        best = min(best, (after - before, row[0] - (before + after) / 2, wanted))
    return best[1:]


def assert_offset(server: PostgresServer, conn: psycopg.Connection[object]) -> None:
    measured, wanted = probed(server, conn)
    assert measured == pytest.approx(wanted, abs=TOLERANCE_SECONDS)


@pytest.mark.parametrize("clock", ["-5.5s", "+0.7s x1.00005", "+3600s"])
def test_the_clock_is_as_wrong_as_told(extra_server, clock) -> None:
    server = extra_server(clock=clock)
    with server.connect() as conn:
        assert_offset(server, conn)


def test_a_drift_is_the_same_in_old_and_new_backends(extra_server) -> None:
    server = extra_server(clock="+0s x1.05")  # 50 ms a second
    with server.connect() as old:
        old.execute("SELECT pg_sleep(1)")
        with server.connect() as new:
            (first, when_first), (second, when_second) = probed(server, new), probed(server, old)
            # it drifts between the two as well
            drifted = when_second - when_first
            assert second - first == pytest.approx(drifted, abs=TOLERANCE_SECONDS)
            assert_offset(server, old)
            assert_offset(server, new)
        assert server.clock_offset_seconds > 0.05


def test_a_clock_is_stepped_while_the_server_runs(extra_server) -> None:
    server = extra_server(clock="+0s", steppable=True)
    with server.connect() as old:
        assert_offset(server, old)
        for clock in ("-1.5s", "+2s x1.001", "+0s"):
            server.set_clock(clock)
            assert_offset(server, old)
            with server.connect() as new:
                assert_offset(server, new)


def test_a_clock_that_was_not_made_to_be_stepped_says_so(stack) -> None:
    with pytest.raises(StackError, match="cannot be stepped") as told:
        stack["a"].set_clock("-1s")
    assert "steppable=True" in told.value.advice


@pytest.mark.parametrize("clock", ["-5.5s", "+0.7s x1.00005"])
def test_true_time_passes_in_sleeps(extra_server, clock) -> None:
    server = extra_server(clock=clock)
    with server.connect() as conn:
        before = time.monotonic()
        conn.execute("SELECT pg_sleep(0.5)")
        assert 0.49 < time.monotonic() - before < 5.0


@pytest.mark.parametrize("clock", ["-5.5s", "+3s x1.00005"])
def test_replication_keeps_its_timeouts(extra_server, clock) -> None:
    """A silent client is dropped after `wal_sender_timeout` of true time, not at once or never."""
    server = extra_server(clock=clock)
    with server.connect() as conn:
        conn.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        conn.execute("CREATE PUBLICATION p")
    options = "-c wal_sender_timeout=4s"
    with psycopg.connect(
        server.dsn_for(options=options, replication="database"), autocommit=True
    ) as conn:
        began = time.monotonic()
        conn.execute(
            "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')"
        )
        conn.pgconn.nonblocking = 1
        keepalives = 0
        dropped = None
        while dropped is None and time.monotonic() - began < 60:
            try:
                conn.pgconn.consume_input()
                status, data = conn.pgconn.get_copy_data(1)
            except psycopg.OperationalError:
                dropped = time.monotonic() - began
                break
            if status < 0:
                dropped = time.monotonic() - began
            elif status > 0:
                keepalives += data[:1] == b"k"
            else:
                time.sleep(0.01)
    assert keepalives >= 1
    assert dropped is not None
    assert 3.5 < dropped < 30  # 60 s without the option
