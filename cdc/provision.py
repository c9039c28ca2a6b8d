"""What a server needs before it can be read: a role, its rights, the publication.

Owns the statements. Idempotent: what is there is left alone or brought to what is needed, and the
list of what was done comes back. Refuses to make the slot unless asked: the reader makes it itself,
together with the snapshot for its backfill. A slot made here is as good: the reader then reads the
tables in a later snapshot, so that nothing lies between.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from cdc.errors import NotLogical, TableMissing, classify
from cdc.role_password import password_clause
from cdc.settings import CALL_TABLE, OBSERVER_TABLE, ReaderSettings
from cdc.slot import FAILOVER_VERSION_MIN


def provision(admin_dsn: str, settings: ReaderSettings, *, make_slot: bool = False) -> list[str]:
    """Prepares the server of `settings` as an administrator; gives what was changed, in words.

    The role is the one that the reader's DSN names, with its password, if any.

    Raises:
        CdcError: What does not hold and cannot be made here (wal_level, the tables), or is not
            allowed to this administrator.
    """
    try:
        with psycopg.connect(
            admin_dsn, autocommit=True, application_name="cdrstream", client_encoding="UTF8"
        ) as conn:
            return _provision(conn, settings, make_slot=make_slot)
    except psycopg.Error as error:
        raise classify(error) from error


def _provision(
    conn: psycopg.Connection[tuple[object, ...]], settings: ReaderSettings, *, make_slot: bool
) -> list[str]:
    level = _value(conn, "select current_setting('wal_level')")
    if level != "logical":
        raise NotLogical(f"wal_level is {level}, logical is needed")
    tables = [
        table
        for table in (CALL_TABLE, OBSERVER_TABLE)
        if _value(conn, "select to_regclass(%s) is not null", table)
    ]
    if CALL_TABLE not in tables:
        raise TableMissing(f"the database has no table {CALL_TABLE}")
    done = []
    for what, statement in [
        *_role_statements(conn, settings, tables),
        *_publication_statements(conn, settings.publication, tables),
    ]:
        conn.execute(statement)
        done.append(what)
    if make_slot and not _value(
        conn,
        "select exists(select from pg_replication_slots where slot_name = %s)",
        settings.slot_name,
    ):
        conn.execute(_slot_statement(conn.info.server_version), (settings.slot_name,))
        done.append(f"slot {settings.slot_name} created")
    return done


def _slot_statement(version: int) -> str:
    # Standbys keep it too, where the server can: after a failover reading goes on.
    failover = ", failover => true" if version >= FAILOVER_VERSION_MIN else ""
    return f"select pg_create_logical_replication_slot(%s, 'pgoutput'{failover})"


def provision_sql(settings: ReaderSettings) -> str:
    """The same by hand: a script for psql, with every statement that may be needed."""
    role = sql.Identifier(_role(settings))
    tables = [CALL_TABLE, OBSERVER_TABLE]
    statements = [
        sql.SQL("create role {} login replication").format(role),
        *_grants(role, conninfo_to_dict(settings.dsn).get("dbname"), tables),
        _create_publication(settings.publication, tables),
    ]
    return "".join(f"{statement.as_string()};\n" for statement in statements)


def _role(settings: ReaderSettings) -> str:
    return str(conninfo_to_dict(settings.dsn).get("user") or "cdr_reader")


def _role_statements(
    conn: psycopg.Connection[tuple[object, ...]], settings: ReaderSettings, tables: Sequence[str]
) -> list[tuple[str, sql.Composed]]:
    name = _role(settings)
    role = sql.Identifier(name)
    found = conn.execute(
        "select rolcanlogin, rolreplication, rolsuper from pg_roles where rolname = %s", (name,)
    ).fetchone()
    if found is not None and found[2]:
        return []  # a superuser may do everything already
    todo: list[tuple[str, sql.Composed]] = []
    if found is None:
        secret = password_clause(conn, name, settings.dsn)
        create = sql.SQL("create role {} login replication").format(role)
        todo.append((f"role {name} created", sql.Composed([create, secret])))
    elif not (found[0] and found[1]):
        alter = sql.SQL("alter role {} login replication").format(role)
        todo.append((f"role {name} may log in and replicate", alter))
    lacks = found is None or not all(
        _value(conn, "select has_table_privilege(%s, %s, 'select')", name, table)
        for table in tables
    )
    if lacks:
        database = str(_value(conn, "select current_database()"))
        for statement in _grants(role, database, tables):
            todo.append((f"role {name}: {statement.as_string(conn)}", statement))
    return todo


def _grants(role: sql.Identifier, database: object, tables: Sequence[str]) -> list[sql.Composed]:
    names = sql.SQL(", ").join(map(sql.Identifier, tables))
    return [
        sql.SQL("grant connect on database {} to {}").format(
            sql.Identifier(str(database or "SIPXCDR")), role
        ),
        sql.SQL("grant select on {} to {}").format(names, role),
    ]


def _publication_statements(
    conn: psycopg.Connection[tuple[object, ...]], publication: str, tables: Sequence[str]
) -> list[tuple[str, sql.Composed]]:
    found = conn.execute(
        "select pubinsert, pubupdate or pubdelete or pubtruncate from pg_publication"
        " where pubname = %s",
        (publication,),
    ).fetchone()
    if found is None:
        return [(f"publication {publication} created", _create_publication(publication, tables))]
    name = sql.Identifier(publication)
    todo: list[tuple[str, sql.Composed]] = []
    published = {
        row[0]
        for row in conn.execute(
            "select tablename::text from pg_publication_tables where pubname = %s", (publication,)
        )
    }
    missing = [table for table in tables if table not in published]
    if missing:
        add = sql.SQL("alter publication {} add table {}").format(
            name, sql.SQL(", ").join(map(sql.Identifier, missing))
        )
        todo.append((f"publication {publication}: added {', '.join(missing)}", add))
    if not found[0] or found[1]:
        # Updates and deletes are no events, and publishing them can break the application's own.
        only = sql.SQL("alter publication {} set (publish = 'insert')").format(name)
        todo.append((f"publication {publication} publishes inserts only", only))
    return todo


def _create_publication(publication: str, tables: Sequence[str]) -> sql.Composed:
    return sql.SQL("create publication {} for table {} with (publish = 'insert')").format(
        sql.Identifier(publication), sql.SQL(", ").join(map(sql.Identifier, tables))
    )


def _value(conn: psycopg.Connection[tuple[object, ...]], query: str, *params: str) -> object:
    row = conn.execute(query, params or None).fetchone()
    assert row is not None
    return row[0]
