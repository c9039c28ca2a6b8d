"""No event leaves its server before the reader has confirmed it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from ops.stack import Stack
from tests.cli_kit import admins, cdrstream, service, until, write_config

pytestmark = pytest.mark.timeout(600)

INSERT = (
    "INSERT INTO call_state_events (observer, event_seq, event_time, event_type, cseq, call_id,"
    " from_url, to_url) SELECT 'a:1', n, now() AT TIME ZONE 'UTC' - %s::interval, 'R', 1,"
    " 'c' || n, '<sip:1@h>', '<sip:2@h>' FROM generate_series(1, %s) n"
)


def test_only_confirmed_events_are_purged(tmp_path: Path) -> None:
    with Stack(1) as stack:
        config = write_config(tmp_path / "purge.toml", stack, stack.servers)
        assert cdrstream("provision", *admins(stack.servers), config=config).returncode == 0
        with stack["a"].connect() as a:
            a.autocommit = True
            a.execute(INSERT, ("8 days", 30))
            a.execute(INSERT, ("6 days", 4))
            never = cdrstream("purge", "--servers", config=config)
            assert never.returncode == 1
            assert "a: 0 rows purged; kept: its reader" in never.stdout
            with service("reader", config=config, log=tmp_path / "reader.log"):
                told: list[str] = []

                def refused() -> bool:
                    told.append(cdrstream("purge", "--servers", config=config).stdout)
                    return "permission denied" in told[-1]

                until(refused)
                assert "`cdrstream provision --purge` gives the right" in told[-1]
                purger = ("--set", f"servers.a.purge_dsn={stack['a'].dsn_for(user='cdr_purger')}")
                given = cdrstream(
                    "provision", "--purge", *purger, *admins(stack.servers), config=config
                )
                assert "role cdr_purger created" in given.stdout, given.stdout + given.stderr

                def purged() -> bool:
                    told = cdrstream("purge", "--servers", *purger, config=config)
                    return "a: 30 rows purged" in told.stdout

                until(purged)
                assert "cdr_purger" not in cdrstream(
                    "provision", "--purge", *purger, *admins(stack.servers), config=config
                ).stdout, "nothing is left to do"  # fmt: skip
            with (
                psycopg.connect(stack["a"].dsn_for(user="cdr_purger")) as them,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                them.execute("SELECT from_url FROM call_state_events")
            assert a.execute("SELECT count(*) FROM call_state_events").fetchone() == (4,)
        off = cdrstream("purge", "--set", "retention.enabled=false", config=config)
        assert off.returncode == 0, off.stderr
        assert "retention.enabled is false" in off.stdout
        assert cdrstream("purge", config=config).returncode == 0
        with stack["a"].connect() as a:
            a.autocommit = True
            a.execute(INSERT, ("2 days", 3))
            with (
                service("reader", config=config, log=tmp_path / "reader.log"),
                service("worker", config=config, log=tmp_path / "worker.log"),
            ):

                def adds_up() -> bool:
                    told = cdrstream("doctor", "--reconcile", config=config)
                    rows = "server a: 7 rows looked up, 7 accounted for" in told.stdout
                    # calls whose rows are gone may be told a commit later
                    return rows and " 0 open" in total(told.stdout)

                until(adds_up)
            told = cdrstream("doctor", "--reconcile", config=config)
            assert told.returncode == 0, told.stdout + told.stderr
            assert total(told.stdout) == "30 calls, 30 told, 0 open"
            a.execute(INSERT, ("2 days", 1))
        wrong = cdrstream("doctor", "--reconcile", config=config)
        assert wrong.returncode == 1
        assert "WRONG server a: not in any provenance: row" in wrong.stdout
        assert cdrstream("active", config=config).stdout == "0 calls in progress\n"


def total(told: str) -> str:
    """The partitions' lines added up."""
    lines = [line for line in told.splitlines() if "partition" in line]
    figures = [
        [int(word) for word in line.split(": ")[1].split() if word.isdecimal()] for line in lines
    ]
    _, calls, said, still_open = (sum(column) for column in zip(*figures, strict=True))
    return f"{calls} calls, {said} told, {still_open} open"
