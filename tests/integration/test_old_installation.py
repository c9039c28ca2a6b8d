"""An old installation taken over by its own settings file, given back, and taken over again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops.stack import Stack
from tests.cli_kit import cdrstream, service, until
from tests.streaming import call_rows

pytestmark = pytest.mark.timeout(600)

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
OLD = Path(__file__).parents[1] / "data" / "old_sipxcdr_7.sql"
RECORDS = 2_001
# What other software sees of a database: relations, columns, indexes, constraints, rights, view.
SHAPE = """
SELECT relkind::text, n.nspname || '.' || relname, coalesce(relacl::text, '') FROM pg_class c
 JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^pg_|^information_schema$'
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname,
 format_type(atttypid, atttypmod) || attnotnull || attnum FROM pg_attribute
 JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0
 AND NOT attisdropped
UNION ALL SELECT 'index', indexdef, '' FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'view', 'view_cdrs', pg_get_viewdef('view_cdrs'::regclass)
UNION ALL SELECT 'schema', nspname, '' FROM pg_namespace WHERE nspname !~ '^pg_'
UNION ALL SELECT 'publication', pubname, '' FROM pg_publication
UNION ALL SELECT 'slot', slot_name, '' FROM pg_replication_slots
ORDER BY 1, 2, 3
"""

Connection = psycopg.Connection[Any]


def shape(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(SHAPE).fetchall()


def records(connection: Connection, where: str) -> list[tuple[Any, ...]]:
    query = f"SELECT * FROM cdrs WHERE {where} ORDER BY id"
    return connection.execute(query.encode()).fetchall()


def told_sql() -> tuple[str, str]:
    """What the page tells operators to type before and after the switch."""
    keep, look = re.findall(r"`((?:CREATE TABLE|SELECT) [^`]+)`", PAGE.read_text())
    return keep, look


def put(connection: Connection, call_id: str, at: float) -> None:
    for row in call_rows(call_id, at):
        names = [column for column in row if column != "id"]
        holes = ", ".join(f"%({column})s" for column in names)
        connection.execute(
            f"INSERT INTO call_state_events ({', '.join(names)}) VALUES ({holes})".encode(), row
        )


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack(1) as running:
        yield running


@pytest.fixture(autouse=True)
def settings(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file as it is, and what it cannot say from the environment."""
    where = psycopg.conninfo.conninfo_to_dict(stack["a"].dsn)
    old = tmp_path / "callresolver-config"
    old.write_text(
        f"SIP_CALLRESOLVER_CSE_HOSTS : localhost:{where['port']}\n"
        f"SIP_CALLRESOLVER_DB_USER : {where['user']}\n"
        "SIP_CALLRESOLVER_CSE_POLLING_INTERVAL : 10\n"
        "SIP_CALLRESOLVER_PURGE : DISABLE\n"
    )
    monkeypatch.setenv("CALLRESOLVER_CONFIG", str(old))
    monkeypatch.setenv("CDRSTREAM_KAFKA__BOOTSTRAP_SERVERS", stack.broker.bootstrap_servers)
    monkeypatch.setenv("CDRSTREAM_KAFKA__PARTITIONS", "2")
    # `environment()` takes settings of the tester's own away; these are the test's.
    monkeypatch.setattr("tests.cli_kit._is_a_setting", lambda _name: False)


def run(*arguments: str, code: int = 0) -> str:
    told = cdrstream(*arguments)
    assert told.returncode == code, told.stdout + told.stderr
    return told.stdout + told.stderr


def test_upgraded_given_back_and_upgraded_again(stack: Stack, tmp_path: Path) -> None:
    with stack["a"].connect() as a:
        a.execute(OLD.read_bytes())
        put(a, "seen@h", 0)
        put(a, "new@h", 100)
        before, old = shape(a), records(a, "true")
        assert len(old) == RECORDS

        assert "CSE_POLLING_INTERVAL has no meaning any more" in run("provision")
        keep, look = told_sql()
        a.execute(keep.encode())
        assert records(a, "true") == old, "the upgrade itself touches no record"
        logs = {"config": None, "log": tmp_path / "log"}
        with service("reader", **logs), service("worker", config=None, log=tmp_path / "worker.log"):
            done = "SELECT FROM cdrs WHERE termination = 'C' AND call_id IN ('seen@h', 'new@h')"
            until(lambda: a.execute(done).rowcount == 2)
            refused = run("downgrade", "--yes", code=1)
            assert "is in use" in refused
            assert "is connected to this database" in refused
            assert "nobody can be asked here" in run("downgrade", code=2)
        assert records(a, "call_id LIKE 'old-%'") == [row for row in old if row[1] != "seen@h"]
        assert a.execute(look.encode()).fetchall() == [("seen@h",)]
        (seen,) = records(a, "call_id = 'seen@h'")
        (was,) = [row for row in old if row[1] == "seen@h"]
        assert (seen[0], *seen[-2:]) == (was[0], "300", 2), "its id and the fork's columns stay"
        ours = records(a, "true")
        reasons = a.execute("SELECT call_id, revision FROM cdr_provenance ORDER BY 1").fetchall()
        assert len(reasons) == 2

        told = run("downgrade", "--yes")
        assert "slot cdrstream_localhost dropped" in told
        assert "tables of ours into schema cdrstream_kept" in told
        assert "nothing of ours" in run("downgrade", "--yes"), "twice changes nothing"
        assert records(a, "true") == ours, "every CDR stays"
        left = [
            row
            for row in shape(a)
            if "cdrstream_kept" not in row[1] and "cdrs_billed" not in row[1]
        ]
        assert left == before
        put(a, "meanwhile@h", 200)
        a.execute(
            "INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor)"
            " VALUES ('by-the-old-one@h', '', '1', '', '')"
        )

        assert "tables taken back from schema cdrstream_kept" in run("provision")
        query = "SELECT call_id, revision FROM cdr_provenance ORDER BY 1"
        assert a.execute(query).fetchall() == reasons
        with service("reader", **logs), service("worker", config=None, log=tmp_path / "worker.log"):
            until(lambda: len(records(a, "call_id = 'meanwhile@h'")) == 1)
        assert records(a, "call_id <> 'meanwhile@h' AND call_id <> 'by-the-old-one@h'") == ours
        assert len(records(a, "call_id = 'by-the-old-one@h'")) == 1

        run("downgrade", "--yes", "--drop")
        a.execute("DROP TABLE cdrs_billed")
        assert shape(a) == before
        assert len(records(a, "true")) == RECORDS + 3
