"""The command `provision`: everything that has to be there before readers and workers start.

Owns the order (topics, the sink's schema and role, each server's tables, role, publication and
slot) and the report, a line for each thing. Refuses to know the statements: `cdc.provision` and
`stream_app.migrations` do. Running it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ops import topics
from ops.config import Config, reader_settings
from ops.dsn import same_host, with_options
from ops.errors import ConfigError, OpsError, UsageError
from ops.failures import describe
from ops.purge import purge_dsn
from ops.redaction import why_no_dsn

SINK: Final = "sink"
CREATED: Final = "created"
DONE: Final = "done"
THERE: Final = "already there"
FAILED: Final = "FAILED"
# Making a slot waits for every transaction that is open: not for ever.
_LOCK_TIMEOUT: Final = "-c lock_timeout=15s"
_DEFAULT_WRITER: Final = "cdr_writer"
_DATABASE: Final = "SIPXCDR"

Echo = Callable[[str], Any]
Line = tuple[str, str]


def run(
    config: Config,
    admin_dsns: Sequence[str],
    *,
    servers: Sequence[str] | None,
    print_sql: bool,
    echo: Echo,
    purge: bool = False,
) -> None:
    """Makes what is missing and says what was made.

    What fails does not keep the rest from being made; it is all told at the end.

    Args:
        config: What has to be there.
        admin_dsns: `NAME=DSN` of administrators, by server name or `sink`.
        servers: Only these servers; all by default.
        print_sql: Only print the statements.
        echo: Takes each line.
        purge: Also give the right to delete old events, which nobody has without.

    Raises:
        ConfigError: An unknown server, a DSN that cannot be read.
        OpsError: Something could not be made; the lines before say what and why.
    """
    names = list(dict.fromkeys(servers or config.servers))
    for name in names:
        config.server(name)
    admins = read_admins(config, admin_dsns)
    if print_sql:
        for line in statements(config, names, purge=purge):
            echo(line)
        return
    steps: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("topics", lambda: _topics(config)),
    ]
    if config.sink.dsn is not None:
        steps.append((SINK, lambda: _sink(config, sink_admin(config, admins))))
    steps += [(f"server {name}", _server_step(config, name, admins, purge=purge)) for name in names]
    failed = [what for what, step in steps if not step_done(what, step, echo)]
    if failed:
        raise OpsError(
            f"could not provision {', '.join(failed)}", "mend that and run it again: it goes on"
        )


def step_done(what: str, step: Callable[[], Iterator[Line]], echo: Echo) -> bool:
    """Does one step and tells each of its lines; False where it failed."""
    try:
        for outcome, thing in step():
            echo(f"{outcome:<13}  {thing}")
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  the other steps are worth doing
        failure = describe(error)
        echo(f"{FAILED:<13}  {what}: {failure.message}")
        if failure.advice:
            echo(f"{'':<13}  {failure.advice}")
        return False
    return True


def read_admins(config: Config, given: Sequence[str]) -> dict[str, str]:
    """`NAME=DSN` of administrators, by name.

    Raises:
        UsageError: An unknown name, or a DSN that cannot be read.
    """
    admins: dict[str, str] = {}
    for argument in given:
        name, equals, dsn = argument.partition("=")
        if not equals or (name != SINK and name not in config.servers):
            known = ", ".join((*config.servers, SINK))
            raise UsageError(f"--admin-dsn {name}: must be NAME=DSN, NAME one of {known}")
        wrong = why_no_dsn(dsn)
        if wrong:
            raise UsageError(f"--admin-dsn {name}: the DSN {wrong}")
        admins[name] = dsn
    return admins


def sink_admin(config: Config, admins: Mapping[str, str]) -> str:
    """The sink's administrator, who may be that of a server on the same machine."""
    dsn = config.sink_dsn()
    if SINK in admins:
        return admins[SINK]
    database = conninfo_to_dict(dsn).get("dbname")
    for name, server in config.servers.items():
        own = server.dsn.get_secret_value()
        if name in admins and same_host(own, dsn):
            return make_conninfo(admins[name], dbname=database) if database else admins[name]
    return dsn


def _topics(config: Config) -> Iterator[Line]:
    for topic, created in topics.create_missing(config.kafka):
        parts = f"{topic.partitions} partition{'' if topic.partitions == 1 else 's'}"
        yield CREATED if created else THERE, f"topic {topic.name} ({parts}): {topic.meaning}"


def _sink(config: Config, admin_dsn: str) -> Iterator[Line]:
    from stream_app.migrations import grant_sink, migrate  # noqa: PLC0415  not on readers' machines

    schema = config.sink.schema_name
    with psycopg.connect(admin_dsn, autocommit=True, connect_timeout=10) as connection:
        if schema != "public":
            for statement in _own_schema(schema):
                connection.execute(statement)
        applied = migrate(connection)
        for migration in applied:
            yield CREATED, f"sink: schema {migration}"
        if not applied:
            yield THERE, "sink: schema, newest migration"
        role = writer_role(config)
        created, superuser = _make_role(connection, role, config.sink_dsn())
        if created:
            yield CREATED, f"sink: role {role}"
        yield from _looker(connection, config)
        if superuser:
            yield THERE, f"sink: role {role} is a superuser: it needs no rights"
            return
        grant_sink(connection, role)
        yield THERE, f"sink: rights of role {role}"
        if schema != "public" and _holds_old_cdrs(connection):
            connection.execute(_read_old_cdrs(role))
            yield THERE, f"sink: role {role} may read the old resolver's cdrs"


def _looker(connection: psycopg.Connection[tuple[Any, ...]], config: Config) -> Iterator[Line]:
    """The pages' own role, if they are to have one: it reads, and nothing else."""
    from stream_app.migrations import grant_look  # noqa: PLC0415  not on readers' machines

    role, dsn = looker_role(config), config.dashboard.dsn
    if role is None or dsn is None:
        return
    created, superuser = _make_role(connection, role, dsn.get_secret_value())
    if created:
        yield CREATED, f"sink: role {role}"
    if not superuser:
        grant_look(connection, role, writer_role(config))
        yield THERE, f"sink: role {role} may read"


def _holds_old_cdrs(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    row = connection.execute("SELECT to_regclass('public.cdrs') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _read_old_cdrs(role: str) -> sql.Composed:
    """For `compare-old`: shadow mode reads what stands beside it, and never writes there."""
    return sql.SQL("GRANT SELECT ON public.cdrs TO {}").format(sql.Identifier(role))


def writer_role(config: Config) -> str:
    """The workers' role."""
    return str(conninfo_to_dict(config.sink_dsn()).get("user") or _DEFAULT_WRITER)


def looker_role(config: Config) -> str | None:
    """The role of the pages, where it is another than the workers'."""
    if config.dashboard.dsn is None:
        return None
    role = conninfo_to_dict(config.dashboard.dsn.get_secret_value()).get("user")
    return str(role) if role and role != writer_role(config) else None


def _make_role(
    connection: psycopg.Connection[tuple[Any, ...]], role: str, dsn: str
) -> tuple[bool, bool]:
    """Makes a role where it is missing, with the DSN's password: (made now, is a superuser)."""
    row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    if row is not None:
        return False, bool(row[0])
    from cdc.role_password import password_clause  # noqa: PLC0415  on demand

    create = sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role))
    connection.execute(sql.Composed([create, password_clause(connection, role, dsn)]))
    return True, False


def _server_step(
    config: Config, name: str, admins: Mapping[str, str], *, purge: bool
) -> Callable[[], Iterator[Line]]:
    admin_dsn = admins.get(name) or config.server(name).dsn.get_secret_value()
    return lambda: _server(config, name, admin_dsn, purge=purge)


def _server(config: Config, name: str, admin_dsn: str, *, purge: bool) -> Iterator[Line]:
    from cdc.provision import provision  # noqa: PLC0415  on demand
    from cdc.purge_rights import grant_purge  # noqa: PLC0415
    from stream_app.migrations import create_event_schema  # noqa: PLC0415

    admin_dsn = with_options(admin_dsn, _LOCK_TIMEOUT)
    with psycopg.connect(admin_dsn, autocommit=True, connect_timeout=10) as connection:
        row = connection.execute("SELECT to_regclass('call_state_events') IS NULL").fetchone()
        if row and row[0] and create_event_schema(connection):
            yield CREATED, f"server {name}: tables of SIPXCDR, schema version 7"
    settings = reader_settings(config, name)
    done = provision(admin_dsn, settings, make_slot=True)
    if purge:
        done += grant_purge(admin_dsn, purge_dsn(config, name))
    for what in done:
        yield DONE, f"server {name}: {what}"
    if not done:
        yield THERE, f"server {name}: role, rights, publication, slot {settings.slot_name}"


def statements(config: Config, names: Sequence[str], *, purge: bool = False) -> Iterator[str]:
    """The SQL for those who do it by hand, without passwords, each part with its database."""
    from cdc.provision import provision_sql  # noqa: PLC0415  on demand
    from cdc.purge_rights import purge_sql  # noqa: PLC0415
    from stream_app.migrations import look_grants, migration_script, sink_grants  # noqa: PLC0415

    for name in names:
        yield f"-- server {name}, in the database that proxies write to"
        settings = reader_settings(config, name)
        yield provision_sql(settings).rstrip("\n")
        if purge:
            yield purge_sql(purge_dsn(config, name)).rstrip("\n")
        told = conninfo_to_dict(settings.dsn)
        if told.get("password") is not None:
            yield f"\\password {told.get('user')}"
    if config.sink.dsn is None:
        return
    schema, role = config.sink.schema_name, writer_role(config)
    database = str(conninfo_to_dict(config.sink_dsn()).get("dbname") or _DATABASE)
    yield "-- sink, in the database that holds the CDRs; leave out what is there"
    if schema != "public":
        yield from (f"{statement.as_string()};" for statement in _own_schema(schema))
    yield from migration_script()
    yield f"CREATE ROLE {sql.Identifier(role).as_string()} LOGIN;"
    yield from (f"{statement};" for statement in sink_grants(role, schema, database))
    if schema != "public":
        yield f"{_read_old_cdrs(role).as_string()};"
    if conninfo_to_dict(config.sink_dsn()).get("password") is not None:
        yield f"\\password {role}"
    if looker := looker_role(config):
        yield f"CREATE ROLE {sql.Identifier(looker).as_string()} LOGIN;"
        yield from (f"{statement};" for statement in look_grants(looker, role, schema, database))
        yield f"\\password {looker}"


def _own_schema(schema: str) -> list[sql.Composed]:
    name = sql.Identifier(schema)
    return [
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name),
        sql.SQL("SET search_path TO {}").format(name),
    ]
