"""A replay from the servers' own tables, for those who have lost the topic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops.stack import Stack
from stream_app.migrations import create_event_schema, migrate
from tests.calls import iso
from tests.cli_kit import cdrstream
from tests.streaming import call_rows

pytestmark = pytest.mark.timeout(600)

SPAN = ("--from", "2024-03-04T09:00:00Z", "--to", "2024-03-04T10:00:00Z")
COLUMNS = (
    "observer", "event_seq", "event_time", "event_type", "cseq", "call_id", "from_tag", "to_tag",
    "from_url", "to_url", "contact", "branch_id", "via_count",
)  # fmt: skip


def insert(dsn: str, rows: list[dict[str, Any]]) -> None:
    statement = (
        f"INSERT INTO call_state_events ({', '.join(COLUMNS)})"
        f" VALUES ({', '.join('%s' for _ in COLUMNS)})"
    )
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(statement, [[row.get(name) for name in COLUMNS] for row in rows])


@pytest.fixture
def config(stack: Stack, database: Callable[..., str], tmp_path: Path) -> tuple[Path, list[str]]:
    """Two servers with calls over both, and a sink that has none of them."""
    one, two, sink = database("a"), database("b"), database("c")
    for dsn in (one, two):
        create_event_schema(dsn)
    migrate(sink)
    here: list[dict[str, Any]] = []
    there: list[dict[str, Any]] = []
    for n in range(40):
        request, setup, end = call_rows(f"c{n:02}@h", n * 10, seconds=30)
        here += [request]
        there += [setup]
        (here if n % 2 else there).append(end)
    here += call_rows("early@h", -40_000, seconds=10)
    here += call_rows("open@h", 100)[:2]
    insert(one, here)
    insert(two, there)
    lines = ["[kafka]", f"bootstrap_servers = {json.dumps(stack.broker.bootstrap_servers)}"]
    for name, dsn in (("a", one), ("b", two)):
        lines += ["[[servers]]", f'name = "{name}"', f"dsn = {json.dumps(dsn)}"]
    lines += ["[sink]", f"dsn = {json.dumps(sink)}", "[worker]", "cdr_stream = false"]
    path = tmp_path / "servers.toml"
    path.write_text("\n".join(lines) + "\n")
    return path, [one, two, sink]


def test_the_tables_give_the_cdrs(config: tuple[Path, list[str]]) -> None:
    path, (_, two, sink) = config
    done = cdrstream("replay", *SPAN, "--from-servers", "--json", config=path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["source"] == "servers"
    assert told["result"]["summary"]["kinds"]["added"] == 41
    assert told["result"]["records"] == 122, "but those from long before the range"
    applied = cdrstream("replay", "apply", str(told["id"]), "--yes", config=path)
    assert applied.returncode == 0, applied.stderr
    with psycopg.connect(sink) as connection:
        rows = connection.execute(
            "SELECT termination, count(*), min(end_time - connect_time)::text FROM cdrs"
            " GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert rows == [("C", 40, "00:00:30"), ("U", 1, None)]
    again = cdrstream("replay", *SPAN, "--from-servers", "--json", config=path)
    assert json.loads(again.stdout)["result"]["summary"]["changed"] == 0
    # An event that nobody has read yet is found where it is.
    insert(two, [call_rows("open@h", 100)[2] | {"event_time": iso(200)}])
    more = cdrstream("replay", *SPAN, "--from-servers", "--json", config=path)
    summary = json.loads(more.stdout)["result"]["summary"]
    assert summary["causes"] == {"more events": 1}


def test_a_server_that_is_away_is_said(config: tuple[Path, list[str]]) -> None:
    path, _ = config
    away = "servers.b.dsn=host=127.0.0.1 port=1"
    done = cdrstream("replay", *SPAN, "--from-servers", "--set", away, config=path)
    assert done.returncode == 1
    assert "server b cannot be read" in done.stderr
    both = cdrstream("replay", *SPAN, "--from-servers", "--source", "x", config=path)
    assert both.returncode == 2
