"""`cdrstream traffic` against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg

from stream_app.migrations import create_event_schema
from tests.cli_kit import cdrstream, service, until


def write(path: Path, dsn: str) -> Path:
    path.write_text(f'[[servers]]\nname = "a"\ndsn = {json.dumps(dsn)}\n')
    return path


def test_calls_are_written_until_the_end(database: Callable[..., str], tmp_path: Path) -> None:
    dsn = database()
    create_event_schema(dsn)
    config = write(tmp_path / "t.toml", dsn)
    with service("traffic", "--rate=50", config=config, log=tmp_path / "log") as process:
        with psycopg.connect(dsn, autocommit=True) as connection:
            until(lambda: connection.execute("SELECT FROM call_state_events LIMIT 9").rowcount == 9)
        process.terminate()
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


def test_a_server_that_refuses_is_named(database: Callable[..., str], tmp_path: Path) -> None:
    config = write(tmp_path / "t.toml", database())
    told = cdrstream("traffic", "--rate=50", "--seconds=20", config=config)
    assert told.returncode == 1
    assert "server a does not take a row" in told.stderr
