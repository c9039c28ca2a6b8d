"""What doctor asks a server: a question that fails leaves its own answer open, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ops.config_sources import load
from ops.doctor import command, server_facts, server_tables, servers
from ops.doctor.checks import Outcome, run_all
from ops.doctor.server_facts import ServerFacts
from tests.cli_kit import until
from tests.reader_kit import TABLES

pytestmark = pytest.mark.timeout(600)

WITHOUT_RIGHTS = "-c role=pg_monitor"  # a role that every server has, and that may read no table


@pytest.fixture
def dsn(database: Callable[..., str]) -> str:
    """A database with both tables, and nothing else that a reader needs."""
    made = database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(TABLES)
    return made


@contextmanager
def after(dsn: str, statement: str) -> Iterator[None]:
    """What a transaction does that is not at its end yet."""
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())
        yield
        connection.rollback()


def ask(dsn: str) -> ServerFacts:
    return server_facts.gather(
        dsn, publication="cdrstream", slot="cdrstream_none", tables=server_tables.TABLES
    )


def test_everything_is_answered(dsn: str) -> None:
    facts = ask(dsn)
    assert facts.columns == server_tables.SCHEMA_7
    assert (facts.publication, facts.slot) == (None, None)
    assert facts.purge == {"is_purged": False, "oldest_seconds": None}
    assert facts.log is not None
    assert facts.log["bytes"] > 0


@pytest.mark.parametrize(
    "change",
    [
        "alter table call_state_events rename event_time to at",
        "alter table call_state_events rename to other",
    ],
)
def test_a_table_that_is_another_takes_no_other_answer_with_it(dsn: str, change: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(change.encode())
    facts = ask(dsn)
    assert facts.purge is None
    assert facts.log is not None
    assert facts.columns != server_tables.SCHEMA_7
    assert servers.load(facts)


def test_a_question_that_takes_too_long_is_left_open(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_facts, "STATEMENT_MS", 2_000)  # for the other questions too
    with after(dsn, "lock table call_state_events"):
        facts = ask(dsn)
    assert facts.purge is None
    assert facts.columns == server_tables.SCHEMA_7
    assert ask(dsn).purge is not None


def test_the_other_checks_of_a_server_that_does_not_let_us_look_are_made(
    dsn: str, tmp_path: Path
) -> None:
    config = tmp_path / "cdrstream.toml"
    config.touch()
    dsn = make_conninfo(dsn, options=WITHOUT_RIGHTS)
    loaded = load(config, environ={"CDRSTREAM_SERVERS__A__DSN": dsn})
    wanted = {f"server a/{name}" for name in ("connect", "settings", "tables", "load")}
    asked = [one for one in command.checks(loaded, ["a"]) if one.key in wanted]
    checked = run_all(asked, time_limit_seconds=60.0)
    told = {result.check.name: result for result in checked}
    assert told["tables"].outcome is Outcome.FAIL
    assert "is not readable by role pg_monitor" in told["tables"].findings[0].found
    for name in ("connect", "settings", "load"):
        assert told[name].outcome in (Outcome.OK, Outcome.WARN), told[name]


def test_a_connection_that_ends_meanwhile_is_no_answer(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_facts, "STATEMENT_MS", 60_000)  # it waits until it is ended
    asking = """
        select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'cdrstream doctor' and wait_event_type = 'Lock'
        and datname = current_database()
    """
    with (
        ThreadPoolExecutor(1) as aside,
        psycopg.connect(dsn, autocommit=True) as looking,
        after(dsn, "lock table call_state_events"),
    ):
        asked = aside.submit(ask, dsn)
        until(lambda: looking.execute(asking).rowcount)
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            asked.result(60)
