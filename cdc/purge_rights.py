"""The right to delete old events on a server, for those who want `purge --servers`.

Owns the statements. Nobody else gets that right: readers only read. A role of its own needs no
more than to delete rows and to find them by id and time; who called whom it cannot read.
"""

from __future__ import annotations

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from cdc.errors import TableMissing, classify
from cdc.role_password import password_clause
from cdc.settings import CALL_TABLE

DEFAULT_ROLE = "cdr_purger"
_COLUMNS = ("id", "event_time")  # what a purge looks for old rows by


def grant_purge(admin_dsn: str, purge_dsn: str) -> list[str]:
    """Lets the role of `purge_dsn` delete events, as an administrator; says what was changed.

    The role is made, with the DSN's password if it has one, where it is missing.

    Raises:
        CdcError: The table is missing, or the administrator may not do that.
    """
    try:
        with psycopg.connect(
            admin_dsn, autocommit=True, application_name="cdrstream", client_encoding="UTF8"
        ) as conn:
            if not _is(conn, "select to_regclass(%s) is not null", CALL_TABLE):
                raise TableMissing(f"the database has no table {CALL_TABLE}")
            return _grant(conn, purge_dsn)
    except psycopg.Error as error:
        raise classify(error) from error


def _grant(conn: psycopg.Connection[tuple[object, ...]], purge_dsn: str) -> list[str]:
    name = purge_role(purge_dsn)
    role = sql.Identifier(name)
    done = []
    if not _is(conn, "select exists(select from pg_roles where rolname = %s)", name):
        secret = password_clause(conn, name, purge_dsn)
        create = sql.SQL("create role {} login").format(role)
        conn.execute(sql.Composed([create, secret]))
        done.append(f"role {name} created")
    if _is(conn, "select has_table_privilege(%s, %s, 'delete')", name, CALL_TABLE) and all(
        _is(conn, "select has_column_privilege(%s, %s, %s, 'select')", name, CALL_TABLE, column)
        for column in _COLUMNS
    ):
        return done
    for statement in _grants(role, conn.info.dbname):
        conn.execute(statement)
        done.append(f"role {name}: {statement.as_string(conn)}")
    return done


def purge_sql(purge_dsn: str) -> str:
    """The same by hand: a script for psql, with every statement that may be needed."""
    role = sql.Identifier(purge_role(purge_dsn))
    database = conninfo_to_dict(purge_dsn).get("dbname")
    statements = [sql.SQL("create role {} login").format(role)]
    statements += _grants(role, str(database or "SIPXCDR"))
    return "".join(f"{statement.as_string()};\n" for statement in statements)


def purge_role(purge_dsn: str) -> str:
    """The role that purges."""
    return str(conninfo_to_dict(purge_dsn).get("user") or DEFAULT_ROLE)


def _grants(role: sql.Identifier, database: str) -> list[sql.Composed]:
    columns = sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
    table = sql.Identifier(CALL_TABLE)
    return [
        sql.SQL("grant connect on database {} to {}").format(sql.Identifier(database), role),
        sql.SQL("grant select ({}), delete on {} to {}").format(columns, table, role),
    ]


def _is(conn: psycopg.Connection[tuple[object, ...]], query: str, *params: str) -> bool:
    row = conn.execute(query.encode(), params).fetchone()
    assert row is not None
    return bool(row[0])
