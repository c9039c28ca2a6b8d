"""The database's shape: numbered SQL files, applied in order, never changed once released.

Owns `schema/NNNN_*.sql`, the table `cdrstream_migrations` that remembers what has been applied, and
the rights that the sink's role needs. Refuses to know what the rows mean.

A version-7 SIPXCDR that another program has made is recognised and left as it is; ours goes beside
it. Applying twice changes nothing, and two at once wait for each other (advisory lock).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from stream_app.errors import SchemaError

Connection = psycopg.Connection[Any]

SIPXCDR_VERSION: Final = 7
_FOLDER: Final = Path(__file__).with_name("schema")
_LOCK_KEY: Final = 0x63647273  # "cdrs": one migration at a time in a database

KEPT_SCHEMA: Final = "cdrstream_kept"  # where the way back puts ours

OLD_TABLES: Final = ("call_state_events", "observer_state_events", "cdrs", "view_cdrs")
OUR_TABLES: Final = (
    "cdr_provenance",
    "sink_progress",
    "cdr_gaps",
    "active_calls",
    "cdr_replays",
    "cdr_replay_parts",
    "cdr_history",
    "cdrstream_migrations",
)
_REMEMBERED: Final = (
    "CREATE TABLE IF NOT EXISTS cdrstream_migrations ("
    "number int4 PRIMARY KEY, name text NOT NULL, "
    "applied_at timestamptz NOT NULL DEFAULT now())"
)
_REMEMBER: Final = "INSERT INTO cdrstream_migrations (number, name) VALUES ({}, {})"

# Table or view to what the worker does there.
SINK_RIGHTS: Final = {
    "cdrs": "SELECT, INSERT, UPDATE, DELETE",
    "cdr_provenance": "SELECT, INSERT, UPDATE, DELETE",
    "active_calls": "SELECT, INSERT, UPDATE, DELETE",
    "sink_progress": "SELECT, INSERT, UPDATE",
    "cdr_gaps": "SELECT, INSERT, DELETE",
    "cdr_replays": "SELECT, INSERT, UPDATE, DELETE",
    "cdr_replay_parts": "SELECT, INSERT, UPDATE, DELETE",
    "cdr_history": "SELECT, INSERT, UPDATE, DELETE",
    "view_cdrs": "SELECT",
    "version_history": "SELECT",
    "cdrstream_migrations": "SELECT",
}


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `schema/`."""

    number: int
    name: str
    statements: str


def migrations() -> list[Migration]:
    """All files in order; their numbers count from 1 without a gap."""
    found = [
        Migration(int(path.name[:4]), path.stem, path.read_text("utf-8"))
        for path in sorted(_FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    return found


def migrate(target: str | Connection) -> list[str]:
    """Brings a database to the newest shape: version 7 and ours beside it.

    Args:
        target: A connection string, or a connection that is not inside a transaction.

    Returns:
        Names of the migrations that were applied now; empty where nothing was to do.

    Raises:
        SchemaError: A SIPXCDR of another version, half of one, or one that a newer program made.
        psycopg.Error: The database is away or refuses a statement; nothing is half applied.
    """
    with connected(target) as connection, connection.transaction():
        lock(connection)
        applied = _take_back(connection)
        connection.execute(_REMEMBERED)
        done = {row[0] for row in connection.execute("SELECT number FROM cdrstream_migrations")}
        known = migrations()
        _refuse_newer(done, known)
        for migration in known:
            if migration.number in done:
                continue
            if migration.number > 1 or not has_version_7(connection):
                connection.execute(migration.statements.encode())
                applied.append(migration.name)
            connection.execute(sql.SQL(_REMEMBER).format(migration.number, migration.name))
        return applied


def create_event_schema(target: str | Connection) -> bool:
    """Only version 7, as a distributed server's database has it; True if it was made now."""
    with connected(target) as connection, connection.transaction():
        lock(connection)
        if has_version_7(connection):
            return False
        connection.execute(migrations()[0].statements.encode())
        return True


def has_version_7(connection: Connection) -> bool:
    """Whether the database is a SIPXCDR of version 7; False where it holds none of it.

    Raises:
        SchemaError: Another version, or only some of the tables.
    """
    there = {name for name in (*OLD_TABLES, "version_history") if exists(connection, name)}
    if not there:
        return False
    missing = sorted({*OLD_TABLES, "version_history"} - there)
    if missing:
        raise SchemaError(f"the database holds half a SIPXCDR: {', '.join(missing)} missing")
    row = connection.execute("SELECT max(version) FROM version_history").fetchone()
    version = row[0] if row else None
    if version != SIPXCDR_VERSION:
        raise SchemaError(
            f"the database is a SIPXCDR of schema version {version}, not {SIPXCDR_VERSION}"
        )
    return True


def migration_script() -> Iterator[str]:
    """What `migrate` does in a database without any of it, for psql."""
    yield f"{_REMEMBERED};"
    for migration in migrations():
        yield f"-- {migration.name}\n{migration.statements.rstrip()}"
        remember = sql.SQL(_REMEMBER).format(migration.number, migration.name)
        yield f"{remember.as_string()};"


def sink_grants(role: str, schema: str, database: str) -> list[str]:
    """What the worker needs, and no more: it cannot read or change the events.

    One statement each; tables are named as the search path finds them.
    """
    names = {"role": role, "schema": schema, "database": database}
    quoted = {name: sql.Identifier(value) for name, value in names.items()}
    tables = (f"GRANT {rights} ON {table} TO {{role}}" for table, rights in SINK_RIGHTS.items())
    statements = (
        "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}",
        # CREATE: a replay makes shadow tables of its own beside `cdrs`.
        "GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}",
        *tables,
        "GRANT USAGE ON SEQUENCE cdrs_id_seq, cdr_gaps_id_seq, cdr_replays_id_seq, "
        "cdr_history_id_seq TO {role}",
    )
    return [sql.SQL(statement).format(**quoted).as_string() for statement in statements]


def look_grants(role: str, writer: str, schema: str, database: str) -> list[str]:
    """What pages and `status` need: to read what the worker keeps, and what replays will keep.

    One statement each, as `sink_grants` has them.
    """
    names = {"role": role, "writer": writer, "schema": schema, "database": database}
    statements = (
        "GRANT CONNECT ON DATABASE {database} TO {role}",
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"GRANT SELECT ON {', '.join(SINK_RIGHTS)} TO {{role}}",
        # Each replay makes tables of its own, as the worker's role.
        "ALTER DEFAULT PRIVILEGES FOR ROLE {writer} IN SCHEMA {schema}"
        " GRANT SELECT ON TABLES TO {role}",
    )
    quoted = {name: sql.Identifier(value) for name, value in names.items()}
    return [sql.SQL(statement).format(**quoted).as_string() for statement in statements]


def grant_look(target: str | Connection, role: str, writer: str) -> None:
    """Gives a role what the pages need."""
    with connected(target) as connection, connection.transaction():
        row = connection.execute("SELECT current_schema(), current_database()").fetchone()
        assert row is not None
        for statement in look_grants(role, writer, *row):
            connection.execute(statement.encode())


def grant_sink(target: str | Connection, role: str) -> None:
    """Gives a role what the worker needs."""
    with connected(target) as connection, connection.transaction():
        row = connection.execute("SELECT current_schema(), current_database()").fetchone()
        assert row is not None
        for statement in sink_grants(role, *row):
            connection.execute(statement.encode())


def _take_back(connection: Connection) -> list[str]:
    """Brings back what the way back (`downgrade`) has moved aside from where we are now."""
    if exists(connection, "cdrstream_migrations") or not exists(
        connection, f"{KEPT_SCHEMA}.cdrstream_migrations"
    ):
        return []
    row = connection.execute("SELECT current_schema()").fetchone()
    if row is None or row[0] != "public":
        return []  # only what is there is ever moved aside
    kept = connection.execute(
        "SELECT relname::text FROM pg_class WHERE relnamespace = %s::regnamespace"
        " AND relkind = 'r' ORDER BY 1",
        (KEPT_SCHEMA,),
    ).fetchall()
    schema = sql.Identifier(KEPT_SCHEMA)
    for (table,) in kept:
        move = sql.SQL("ALTER TABLE {}.{} SET SCHEMA public")
        connection.execute(move.format(schema, sql.Identifier(table)))
    connection.execute(sql.SQL("DROP SCHEMA {}").format(schema))
    return [f"{len(kept)} tables taken back from schema {KEPT_SCHEMA}"]


def _refuse_newer(done: set[int], known: list[Migration]) -> None:
    newer = sorted(done - {migration.number for migration in known})
    if newer:
        raise SchemaError(
            f"a newer version has migrated this database (migration {newer[-1]})",
            "use that version, or a newer one",
        )


def exists(connection: Connection, name: str) -> bool:
    """Whether the search path finds a table or view of that name."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
    return bool(row and row[0])


def lock(connection: Connection) -> None:
    """One change of the schema at a time; held until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))


@contextmanager
def connected(target: str | Connection) -> Iterator[Connection]:
    """A connection to the target, closed at the end if it was made here."""
    if isinstance(target, str):
        with psycopg.connect(target, connect_timeout=10) as connection:
            yield connection
    else:
        yield target
