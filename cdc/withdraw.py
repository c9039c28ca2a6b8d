"""Leaves a server as it was before it was read: without slot, publication and the reader's rights.

Owns the statements; the opposite of `provision`. Roles stay, without rights: they may own or do
more than we know.
"""

from __future__ import annotations

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from cdc.errors import CdcError, Retry, classify
from cdc.purge_rights import purge_role
from cdc.settings import CALL_TABLE, OBSERVER_TABLE, ReaderSettings

_Conn = psycopg.Connection[tuple[object, ...]]


class SlotInUse(CdcError):
    """A reader still reads from the slot that is to go."""

    retry = Retry.MANUAL
    advice = "End the readers of this server first; then do it again."


def withdraw(admin_dsn: str, settings: ReaderSettings, purge_dsn: str = "") -> list[str]:
    """Takes away what `provision` has made, as an administrator; says what was done.

    The slot goes first: as long as it is there the server keeps its log for it.

    Raises:
        CdcError: A reader is still connected, or the administrator may not do that.
    """
    try:
        with psycopg.connect(
            admin_dsn, autocommit=True, application_name="cdrstream", client_encoding="UTF8"
        ) as conn:
            done = _slot(conn, settings)
            done += _publication(conn, settings.publication)
            readers = str(conninfo_to_dict(settings.dsn).get("user") or "cdr_reader")
            for role in dict.fromkeys((readers, *([purge_role(purge_dsn)] if purge_dsn else []))):
                done += _rights(conn, role)
            return done
    except psycopg.Error as error:
        raise classify(error) from error


def _slot(conn: _Conn, settings: ReaderSettings) -> list[str]:
    name = settings.slot_name
    row = conn.execute(
        "select active_pid from pg_replication_slots where slot_name = %s", (name,)
    ).fetchone()
    if row is None:
        return []
    if row[0] is not None:
        raise SlotInUse(f"slot {name} is in use (pid {row[0]})")
    conn.execute("select pg_drop_replication_slot(%s)", (name,))
    return [f"slot {name} dropped"]


def _publication(conn: _Conn, name: str) -> list[str]:
    found = conn.execute("select from pg_publication where pubname = %s", (name,)).rowcount
    if not found:
        return []
    conn.execute(sql.SQL("drop publication {}").format(sql.Identifier(name)))
    return [f"publication {name} dropped"]


def _rights(conn: _Conn, name: str) -> list[str]:
    """Whoever owns the tables, or may do everything, is not ours to change."""
    found = conn.execute(
        "select from pg_roles r where rolname = %s and not rolsuper and not exists (select from"
        " pg_class where oid = to_regclass(%s) and pg_has_role(r.oid, relowner, 'member'))"
        " and has_any_column_privilege(r.oid, %s, 'select')",
        (name, CALL_TABLE, CALL_TABLE),
    ).rowcount
    if not found:
        return []
    role = sql.Identifier(name)
    for table in (CALL_TABLE, OBSERVER_TABLE):
        if conn.execute("select where to_regclass(%s) is not null", (table,)).rowcount:
            revoke = sql.SQL("revoke all on {} from {}")
            conn.execute(revoke.format(sql.Identifier(table), role))
    revoke = sql.SQL("revoke all on database {} from {}")
    conn.execute(revoke.format(sql.Identifier(conn.info.dbname), role))
    return [f"role {name} can no longer read"]
