"""The schema that migrations make is the interface that other software knows, to the letter."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from stream_app.errors import SchemaError
from stream_app.migrations import (
    OUR_TABLES,
    create_event_schema,
    grant_sink,
    has_version_7,
    migrate,
    migrations,
)
from tests.streaming import empty, stream_stack

__all__ = ["empty", "stream_stack"]

TEXT, TIME, SMALL, WHOLE = "text", "timestamp without time zone", "smallint", "integer"

CALL_STATE_EVENTS = [
    ("id", "bigint", False),
    ("observer", TEXT, False),
    ("event_seq", "bigint", False),
    ("event_time", TIME, False),
    ("event_type", "character(1)", False),
    ("cseq", WHOLE, False),
    ("call_id", TEXT, False),
    ("from_tag", TEXT, True),
    ("to_tag", TEXT, True),
    ("from_url", TEXT, False),
    ("to_url", TEXT, False),
    ("contact", TEXT, True),
    ("refer_to", TEXT, True),
    ("referred_by", TEXT, True),
    ("failure_status", SMALL, True),
    ("failure_reason", TEXT, True),
    ("request_uri", TEXT, True),
    ("reference", TEXT, True),
    ("caller_internal", "boolean", True),
    ("callee_route", TEXT, True),
    ("branch_id", TEXT, True),
    ("via_count", SMALL, True),
]
OBSERVER_STATE_EVENTS = [
    ("id", "bigint", False),
    ("observer", TEXT, False),
    ("event_seq", "bigint", False),
    ("event_time", TIME, False),
    ("status", SMALL, False),
    ("msg", TEXT, True),
]
CDRS = [
    ("id", "bigint", False),
    ("call_id", TEXT, False),
    ("from_tag", TEXT, False),
    ("to_tag", TEXT, False),
    ("caller_aor", TEXT, False),
    ("callee_aor", TEXT, False),
    ("start_time", TIME, True),
    ("connect_time", TIME, True),
    ("end_time", TIME, True),
    ("termination", "character(1)", True),
    ("failure_status", SMALL, True),
    ("failure_reason", TEXT, True),
    ("call_direction", "character(1)", True),
    ("reference", TEXT, True),
    ("caller_contact", TEXT, True),
    ("callee_contact", TEXT, True),
    ("caller_internal", "boolean", True),
    ("callee_route", TEXT, True),
]
VIEW_CDRS = [
    ("id", "bigint"),
    ("caller_aor", TEXT),
    ("callee_aor", TEXT),
    ("start_time", TIME),
    ("connect_time", TIME),
    ("end_time", TIME),
    ("duration", "interval"),
    ("termination", "character(1)"),
    ("failure_status", SMALL),
    ("failure_reason", TEXT),
    ("call_direction", "character(1)"),
]
OLD = ["call_state_events", "cdrs", "observer_state_events", "version_history", "view_cdrs"]

Connection = psycopg.Connection[Any]


def columns(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    """Name, type and whether NULL is allowed, in order."""
    return connection.execute(
        "SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (table,),
    ).fetchall()


def relations(connection: Connection) -> list[str]:
    found = connection.execute(
        "SELECT relname::text FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1"
    )
    return [row[0] for row in found]


def grants(connection: Connection, role: str) -> set[tuple[str, str]]:
    found = connection.execute(
        "SELECT table_name::text, privilege_type::text FROM information_schema.role_table_grants"
        " WHERE grantee = %s AND table_schema = 'public'",
        (role,),
    )
    return {(row[0], row[1]) for row in found}


def test_version_7_is_exactly_what_other_software_knows(empty: Connection) -> None:
    assert create_event_schema(empty)
    assert relations(empty) == OLD
    assert columns(empty, "call_state_events") == CALL_STATE_EVENTS
    assert columns(empty, "observer_state_events") == OBSERVER_STATE_EVENTS
    assert columns(empty, "cdrs") == CDRS
    assert columns(empty, "version_history") == [
        ("version", WHOLE, False),
        ("applied", "date", True),
    ]
    assert [row[:2] for row in columns(empty, "view_cdrs")] == VIEW_CDRS
    assert empty.execute("SELECT version, applied FROM version_history").fetchall() == [
        (7, empty.execute("SELECT current_date").fetchone()[0])  # type: ignore[index]
    ]
    defaults = empty.execute(
        "SELECT table_name::text, column_default FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_default IS NOT NULL ORDER BY 1"
    ).fetchall()
    assert defaults == [
        (table, f"nextval('{table}_id_seq'::regclass)")
        for table in ("call_state_events", "cdrs", "observer_state_events")
    ]


def test_keys_indexes_and_view(empty: Connection) -> None:
    create_event_schema(empty)
    indexed = empty.execute(
        "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum), i.indisunique,"
        " i.indisprimary FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)"
        " WHERE c.relnamespace = 'public'::regnamespace GROUP BY i.indexrelid, 1, 3, 4"
        " ORDER BY 1, 2"
    ).fetchall()
    assert indexed == [
        ("call_state_events", ["event_time"], False, False),
        ("call_state_events", ["id"], True, True),
        ("cdrs", ["call_id"], True, False),
        ("cdrs", ["id"], True, True),
        ("cdrs", ["start_time"], False, False),
        ("observer_state_events", ["id"], True, True),
        ("version_history", ["version"], True, True),
    ]
    empty.execute(
        "INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time,"
        " connect_time, end_time) VALUES ('c', '', '', '', '', '2024-01-01 10:00:00',"
        " '2024-01-01 10:00:02.5', '2024-01-01 10:01:00')"
    )
    assert empty.execute("SELECT duration::text FROM view_cdrs").fetchall() == [("00:00:57.5",)]


def test_reporting_role_reads_cdrs_and_nothing_else(empty: Connection) -> None:
    migrate(empty)
    assert grants(empty, "cdrremote") == {("cdrs", "SELECT"), ("view_cdrs", "SELECT")}


def test_migrate_twice_changes_nothing(empty: Connection) -> None:
    assert migrate(empty) == [migration.name for migration in migrations()]
    before = relations(empty)
    assert migrate(empty) == []
    assert relations(empty) == before == sorted([*OLD, *OUR_TABLES])


def test_existing_version_7_is_upgraded_in_place(empty: Connection) -> None:
    """Made by another program: other index names, the later fork's columns, rows of its own."""
    create_event_schema(empty)
    empty.execute("ALTER TABLE cdrs ADD COLUMN called_number text, ADD COLUMN gateway int")
    empty.execute("ALTER INDEX cdrs_start_time_index RENAME TO idx_start")
    empty.execute("UPDATE version_history SET applied = '2009-01-01'")
    empty.execute(
        "INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, gateway)"
        " VALUES ('old', '', '', '', '', 7)"
    )
    assert migrate(empty) == [migration.name for migration in migrations()[1:]]
    assert columns(empty, "cdrs") == [
        *CDRS,
        ("called_number", TEXT, True),
        ("gateway", WHOLE, True),
    ]
    assert empty.execute("SELECT call_id, gateway FROM cdrs").fetchall() == [("old", 7)]
    assert empty.execute("SELECT applied::text FROM version_history").fetchall() == [
        ("2009-01-01",)
    ]
    assert set(OUR_TABLES) <= set(relations(empty))
    assert migrate(empty) == []


def test_event_schema_is_made_once_and_has_nothing_of_ours(empty: Connection) -> None:
    assert create_event_schema(empty)
    assert not create_event_schema(empty)
    assert not set(OUR_TABLES) & set(relations(empty))


def test_other_databases_are_refused(empty: Connection) -> None:
    create_event_schema(empty)
    empty.execute("UPDATE version_history SET version = 6")
    with pytest.raises(SchemaError, match="schema version 6, not 7"):
        migrate(empty)
    assert relations(empty) == OLD, "nothing is half applied"
    empty.execute("UPDATE version_history SET version = 7")
    empty.execute("DROP VIEW view_cdrs")
    with pytest.raises(SchemaError, match="half a SIPXCDR: view_cdrs missing"):
        has_version_7(empty)


def test_database_of_a_newer_program_is_refused(empty: Connection) -> None:
    migrate(empty)
    empty.execute("INSERT INTO cdrstream_migrations (number, name) VALUES (9000, 'future')")
    with pytest.raises(SchemaError, match="newer version"):
        migrate(empty)


def test_two_migrations_at_once_wait_for_each_other(empty: Connection) -> None:
    from concurrent.futures import ThreadPoolExecutor

    dsn = f"{empty.info.dsn} password=''"
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(migrate, [dsn, dsn]))
    assert sorted(map(len, done)) == [0, len(migrations())]


def test_sink_role_has_the_least_rights(empty: Connection) -> None:
    migrate(empty)
    role = f"writer_{empty.info.dbname}"
    empty.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    try:
        grant_sink(empty, role)
        grant_sink(empty, role)
        write = {"SELECT", "INSERT", "UPDATE"}
        wanted = {
            *(("cdrs", right) for right in (*write, "DELETE")),
            *(("cdr_provenance", right) for right in (*write, "DELETE")),
            *(("active_calls", right) for right in (*write, "DELETE")),
            *(("cdr_replays", right) for right in (*write, "DELETE")),
            *(("cdr_replay_parts", right) for right in (*write, "DELETE")),
            *(("cdr_history", right) for right in (*write, "DELETE")),
            *(("sink_progress", right) for right in write),
            ("cdr_gaps", "SELECT"),
            ("cdr_gaps", "INSERT"),
            ("cdr_gaps", "DELETE"),
            *((table, "SELECT") for table in ("view_cdrs", "version_history")),
            ("cdrstream_migrations", "SELECT"),
        }
        assert grants(empty, role) == wanted
    finally:
        empty.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        empty.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
