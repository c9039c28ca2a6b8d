"""The way back, statement by statement: what leaves, what stays, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc.provision import provision
from cdc.settings import ReaderSettings
from cdc.status import State
from cdc.withdraw import SlotInUse, withdraw
from stream_app.downgrade import downgrade
from stream_app.errors import SchemaError
from stream_app.migrations import (
    KEPT_SCHEMA,
    OUR_TABLES,
    create_event_schema,
    grant_look,
    grant_sink,
    migrate,
)
from tests.reader_kit import Bed
from tests.streaming import empty, stream_stack

__all__ = ["empty", "stream_stack"]

Connection = psycopg.Connection[Any]


@pytest.fixture
def writer(empty: Connection) -> Iterator[str]:
    role = f"writer_{empty.info.dbname}"
    migrate(empty)
    empty.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    grant_sink(empty, role)
    yield role
    empty.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
    empty.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def tables(connection: Connection, schema: str) -> set[str]:
    found = connection.execute(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = %s", (schema,)
    )
    return {row[0] for row in found}


def test_tables_go_aside_and_come_back_with_rows_and_sequences(empty: Connection) -> None:
    migrate(empty)
    insert = "INSERT INTO cdr_gaps (server, from_lsn, to_lsn, reason) VALUES (%s, '0/1', '0/2', '')"
    empty.execute(insert, ("a",))
    empty.execute("CREATE TABLE replay_7_cdrs (call_id text PRIMARY KEY)")
    assert downgrade(empty, "nobody_of_that_name") == [
        f"moved {len(OUR_TABLES) + 1} tables of ours into schema {KEPT_SCHEMA}"
    ]
    assert not tables(empty, "public") & {*OUR_TABLES, "replay_7_cdrs"}
    (told,) = migrate(empty)
    assert told == f"{len(OUR_TABLES) + 1} tables taken back from schema {KEPT_SCHEMA}"
    assert set(OUR_TABLES) <= tables(empty, "public")
    empty.execute(insert, ("b",))
    assert empty.execute("SELECT id, server FROM cdr_gaps ORDER BY id").fetchall() == [
        (1, "a"),
        (2, "b"),
    ]
    assert migrate(empty) == []


def test_the_writer_can_write_no_more_until_it_is_given_its_rights_again(
    empty: Connection, writer: str
) -> None:
    assert f"role {writer} can no longer write" in downgrade(empty, writer)
    allowed = "SELECT has_table_privilege(%s, 'cdrs', 'SELECT, INSERT, UPDATE, DELETE')"
    assert empty.execute(allowed, (writer,)).fetchone() == (False,)
    assert empty.execute(
        "SELECT has_table_privilege('cdrremote', 'cdrs', 'SELECT')"
    ).fetchone() == (True,)
    assert downgrade(empty, writer) == []
    migrate(empty)
    grant_sink(empty, writer)
    assert empty.execute(allowed, (writer,)).fetchone() == (True,)


def test_who_looks_reads_what_replays_make_and_nothing_after_the_way_back(
    empty: Connection, writer: str
) -> None:
    looker = f"looker_{empty.info.dbname}"
    role, owner = sql.Identifier(looker), sql.Identifier(writer)
    empty.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        grant_look(empty, looker, writer)
        empty.execute(sql.SQL("SET ROLE {}").format(owner))
        empty.execute("CREATE TABLE replay_1_changes (call_id text)")
        empty.execute(sql.SQL("SET ROLE {}").format(role))
        empty.execute("SELECT FROM cdr_provenance")
        empty.execute("SELECT FROM replay_1_changes")
        for forbidden in ("DELETE FROM cdrs", "SELECT FROM call_state_events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                empty.execute(forbidden)  # type: ignore[arg-type]
        empty.execute("RESET ROLE")
        told = downgrade(empty, writer, looker=looker)
        assert f"role {looker} can no longer read" in told
        assert downgrade(empty, writer, looker=looker) == []
        empty.execute(sql.SQL("SET ROLE {}").format(role))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            empty.execute("SELECT FROM cdrs")
    finally:
        empty.execute("RESET ROLE")
        empty.execute(sql.SQL("DROP OWNED BY {}").format(role))
        empty.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_role_of_version_7_keeps_its_rights_though_the_pages_use_it(
    empty: Connection, writer: str
) -> None:
    downgrade(empty, writer, looker="cdrremote")
    may = "SELECT has_table_privilege('cdrremote', 'cdrs', 'SELECT')"
    assert empty.execute(may).fetchone() == (True,)


def test_who_owns_cdrs_keeps_every_right(empty: Connection, writer: str) -> None:
    empty.execute(sql.SQL("ALTER TABLE cdrs OWNER TO {}").format(sql.Identifier(writer)))
    assert len(downgrade(empty, writer)) == 1
    allowed = "SELECT has_table_privilege(%s, 'cdrs', 'INSERT')"
    assert empty.execute(allowed, (writer,)).fetchone() == (True,)
    empty.execute("ALTER TABLE cdrs OWNER TO CURRENT_USER")


def test_a_worker_that_is_connected_keeps_everything_as_it_is(empty: Connection) -> None:
    migrate(empty)
    dsn = psycopg.conninfo.make_conninfo(empty.info.dsn, application_name="cdrstream host-1")
    with psycopg.connect(dsn), pytest.raises(SchemaError, match="cdrstream host-1 is connected"):
        downgrade(empty, "")
    assert set(OUR_TABLES) <= tables(empty, "public")


def test_what_was_kept_before_is_not_overwritten(empty: Connection) -> None:
    migrate(empty)
    empty.execute(f"CREATE SCHEMA {KEPT_SCHEMA}; CREATE TABLE {KEPT_SCHEMA}.cdr_gaps ()")
    with pytest.raises(SchemaError, match="holds a cdr_gaps already"):
        downgrade(empty, "")
    assert set(OUR_TABLES) <= tables(empty, "public"), "nothing is half done"
    assert len(downgrade(empty, "", drop=True)) == 2
    assert not tables(empty, KEPT_SCHEMA)


def test_another_database_is_refused(empty: Connection) -> None:
    with pytest.raises(SchemaError, match="no SIPXCDR"):
        downgrade(empty, "")
    create_event_schema(empty)
    assert downgrade(empty, "") == []


def test_a_server_loses_slot_publication_and_the_readers_rights(bed: Bed) -> None:
    role = f"reads_{bed.name}"
    own = psycopg.conninfo.make_conninfo(bed.dsn, user=role)
    settings: ReaderSettings = replace(bed.settings(), dsn=own)
    with bed.connect() as conn:
        provision(bed.dsn, settings, make_slot=True)
        done = withdraw(bed.dsn, settings)
        assert done == [
            f"slot {settings.slot_name} dropped",
            f"publication {settings.publication} dropped",
            f"role {role} can no longer read",
        ]
        assert withdraw(bed.dsn, settings) == []
        assert not conn.execute("select from pg_publication").rowcount
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))  # nothing holds it


async def test_a_slot_in_use_stays(bed: Bed) -> None:
    async with bed.reading() as reader:
        while reader.state is not State.STREAMING:
            await asyncio.sleep(0.05)
        with pytest.raises(SlotInUse, match="is in use"):
            await asyncio.to_thread(withdraw, bed.dsn, bed.settings())
        with bed.connect() as conn:
            assert conn.execute("select from pg_publication").rowcount == 1
