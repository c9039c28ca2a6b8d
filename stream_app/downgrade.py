"""The way back: a SIPXCDR as it was before ours came, with every CDR in it.

Owns what leaves the database and what stays. `cdrs`, `view_cdrs`, `version_history` and `cdrremote`
stay as they are: other software knows them, and the old resolver goes on in them. Ours is moved
aside into a schema of its own, from where `migrations.migrate` takes it back; or it is dropped.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from stream_app.errors import SchemaError
from stream_app.migrations import (
    KEPT_SCHEMA,
    OUR_TABLES,
    Connection,
    connected,
    exists,
    has_version_7,
    lock,
)

REMOTE_ROLE = "cdrremote"  # version 7's own: its rights are not ours to take
_NAMES = (
    "SELECT relname::text FROM pg_class WHERE relnamespace = {}::regnamespace AND relkind = 'r'"
)
_REPLAYS = " AND relname ~ '^replay_[0-9]+_' ORDER BY 1"


def downgrade(
    target: str | Connection, writer: str, *, looker: str | None = None, drop: bool = False
) -> list[str]:
    """Takes ours out of a database; what is left is version 7 and nothing else.

    Args:
        target: A connection string, or a connection that is not inside a transaction.
        writer: The workers' role: it loses its rights, so that a forgotten worker cannot write
            beside the old resolver. A superuser, or whoever owns `cdrs`, keeps them.
        looker: The pages' role, if they have one of their own: it loses its rights too.
        drop: Drop ours, instead of moving it aside.

    Returns:
        What was done, in words; empty where nothing was to do.

    Raises:
        SchemaError: No SIPXCDR, a worker is still connected, or what an earlier way back has moved
            aside is in the way. Nothing is half done.
        psycopg.Error: The database is away or refuses a statement.
    """
    with connected(target) as connection, connection.transaction():
        lock(connection)
        if not has_version_7(connection):
            raise SchemaError("there is no SIPXCDR in this database")
        _refuse_workers(connection)
        tables = [name for name in OUR_TABLES if exists(connection, name)]
        query = sql.SQL(_NAMES + _REPLAYS).format(sql.SQL("current_schema()"))
        tables += [row[0] for row in connection.execute(query)]
        done = []
        if tables and drop:
            names = sql.SQL(", ").join(map(sql.Identifier, tables))
            connection.execute(sql.SQL("DROP TABLE {}").format(names))
            done.append(f"dropped {len(tables)} tables of ours")
        elif tables:
            _move_aside(connection, tables)
            done.append(f"moved {len(tables)} tables of ours into schema {KEPT_SCHEMA}")
        if drop and _kept(connection):
            connection.execute(
                sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(KEPT_SCHEMA))
            )
            done.append(f"dropped schema {KEPT_SCHEMA}")
        if _take_rights(connection, writer, "INSERT"):
            done.append(f"role {writer} can no longer write")
        if looker not in (None, REMOTE_ROLE) and _take_rights(connection, str(looker), "SELECT"):
            _forget_looker(connection, str(looker), writer)
            done.append(f"role {looker} can no longer read")
        return done


def _kept(connection: Connection) -> bool:
    row = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (KEPT_SCHEMA,)).fetchone()
    return bool(row and row[0])


def _refuse_workers(connection: Connection) -> None:
    row = connection.execute(
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND application_name LIKE 'cdrstream %' LIMIT 1"
    ).fetchone()
    if row is not None:
        raise SchemaError(
            f"{row[0]} is connected to this database",
            "stop workers, dashboard and replays first: they would find their tables gone",
        )


def _move_aside(connection: Connection, tables: list[str]) -> None:
    schema = sql.Identifier(KEPT_SCHEMA)
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
    for table in tables:
        statement = sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(sql.Identifier(table), schema)
        try:
            connection.execute(statement)
        except psycopg.errors.DuplicateTable as error:
            raise SchemaError(
                f"schema {KEPT_SCHEMA} holds a {table} already, of an earlier way back",
                f"look whether it is wanted; else DROP SCHEMA {KEPT_SCHEMA} CASCADE",
            ) from error


def _forget_looker(connection: Connection, looker: str, writer: str) -> None:
    """What the worker's role makes from now on is not for the pages."""
    statement = (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public REVOKE SELECT ON TABLES FROM {}"
    )
    connection.execute(sql.SQL(statement).format(sql.Identifier(writer), sql.Identifier(looker)))


def _take_rights(connection: Connection, role: str, told_by: str) -> bool:
    """Takes a role's rights, if it has that one on `cdrs` and has not just everything."""
    row = connection.execute(
        "SELECT NOT rolsuper AND has_table_privilege(oid, 'cdrs', %s) AND NOT EXISTS (SELECT"
        " FROM pg_class WHERE oid = 'cdrs'::regclass AND pg_has_role(pg_roles.oid, relowner,"
        " 'MEMBER')), current_schema(), current_database() FROM pg_roles WHERE rolname = %s",
        (told_by, role),
    ).fetchone()
    if row is None or not row[0]:
        return False
    names = {"role": role, "schema": row[1], "database": row[2]}
    for statement in (
        "REVOKE ALL ON cdrs, view_cdrs, version_history FROM {role}",
        "REVOKE ALL ON SEQUENCE cdrs_id_seq FROM {role}",
        "REVOKE ALL ON SCHEMA {schema} FROM {role}",
        "REVOKE ALL ON DATABASE {database} FROM {role}",
    ):
        quoted = {name: sql.Identifier(value) for name, value in names.items()}
        connection.execute(sql.SQL(statement).format(**quoted))
    return True
