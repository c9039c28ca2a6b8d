"""Is the database that holds the CDRs fit to be written to, and does anybody write?

Owns the questions to the sink and their judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

from ops.doctor.checks import Finding, fail, ok, warn
from ops.doctor.server_facts import connect
from stream_app.migrations import SINK_RIGHTS

Row = Mapping[str, Any]

SIPXCDR_VERSION: Final = 7
PROGRESS_STALE_SECONDS: Final = 60
_PROVISION: Final = "cdrstream provision --admin-dsn sink='host=... user=postgres ...'"
_RELATIONS: Final = """
SELECT current_user AS role, current_database() AS database, version() AS version,
    pg_is_in_recovery() AS in_recovery,
    to_regclass('version_history') IS NOT NULL AS has_version,
    to_regclass('view_cdrs') IS NOT NULL AS has_view,
    to_regclass('cdrstream_migrations') IS NOT NULL AS has_migrations,
    EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdrremote') AS has_remote
"""
_PRIVILEGE: Final = """
SELECT to_regclass(%(table)s) IS NOT NULL AS there,
    (SELECT bool_and(has_table_privilege(to_regclass(%(table)s), wanted))
     FROM unnest(string_to_array(%(wanted)s, ', ')) AS wanted) AS may
"""
_REMOTE: Final = """
SELECT has_table_privilege('cdrremote', to_regclass('cdrs'), 'SELECT')
    AND has_table_privilege('cdrremote', to_regclass('view_cdrs'), 'SELECT') AS may
"""
_PROGRESS: Final = """
SELECT partition, extract(epoch FROM now() - updated_at)::float8 AS age_seconds, holder, watermark
FROM sink_progress WHERE topic = %s ORDER BY partition
"""
# As JSON: an older schema has no such columns, and is another check's affair.
_UNTOLD: Final = """
SELECT id FROM cdr_replays AS replay
WHERE to_jsonb(replay)->>'swap' IS NOT NULL AND to_jsonb(replay)->>'told_at' IS NULL ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """The sink's answers.

    Attributes:
        database: Version, role, which relations are there.
        sipxcdr_version: Newest version in `version_history`; None where it cannot be read.
        migration: Newest of our migrations; None where there is none or it cannot be read.
        privileges: Table to whether it is there and may be written.
        remote_may_read: Whether `cdrremote` reads the CDRs; None without that role.
        progress: Rows of `sink_progress` for the event topic.
        untold: Replays whose newest apply or undo was not told to all who listen to revisions.
    """

    database: Row
    sipxcdr_version: int | None
    migration: int | None
    privileges: Mapping[str, Row]
    remote_may_read: bool | None
    progress: Sequence[Row]
    untold: Sequence[int] = ()


def gather(dsn: str, schema: str, events_topic: str) -> SinkFacts:
    """Asks the sink everything.

    Raises:
        psycopg.Error: It cannot be connected to, or does not answer in time.
    """
    with connect(dsn) as connection:
        connection.execute("SELECT set_config('search_path', %s, false)", (schema,))

        def one(query: str, parameters: Any = None) -> Row:
            row = connection.execute(query, parameters).fetchone()
            assert row is not None
            return row

        def newest(table: str, column: str) -> int | None:
            if not one(_PRIVILEGE, {"table": table, "wanted": "SELECT"})["may"]:
                return None
            number: int | None = one(f"SELECT max({column}) AS number FROM {table}")["number"]  # noqa: S608  our own names
            return number

        database = one(_RELATIONS)
        privileges = {
            table: one(_PRIVILEGE, {"table": table, "wanted": wanted})
            for table, wanted in SINK_RIGHTS.items()
        }
        readable = bool(privileges["sink_progress"]["may"])
        replays = bool(privileges["cdr_replays"]["may"])
        return SinkFacts(
            database=database,
            sipxcdr_version=newest("version_history", "version"),
            migration=newest("cdrstream_migrations", "number"),
            privileges=privileges,
            remote_may_read=one(_REMOTE)["may"] if database["has_remote"] else None,
            progress=connection.execute(_PROGRESS, (events_topic,)).fetchall() if readable else [],
            untold=[row["id"] for row in connection.execute(_UNTOLD)] if replays else [],
        )


def schema(facts: SinkFacts, newest_migration: int) -> list[Finding]:
    """Schema version 7 and ours beside it."""
    database = facts.database
    if database["in_recovery"]:
        return [fail("the sink is a standby", "the primary", "correct sink.dsn")]
    if not database["has_version"]:
        return [fail(f"database {database['database']} holds no SIPXCDR", "one", _PROVISION)]
    findings = []
    if facts.sipxcdr_version not in (SIPXCDR_VERSION, None):
        findings.append(
            fail(
                f"SIPXCDR of schema version {facts.sipxcdr_version}",
                f"{SIPXCDR_VERSION}",
                "point sink.dsn at a SIPXCDR of version 7, or at an empty database",
            )
        )
    if facts.migration is None or facts.migration < newest_migration:
        findings.append(
            fail(
                f"our schema is at migration {facts.migration or 'none'}",
                f"{newest_migration}",
                _PROVISION,
            )
        )
    elif facts.migration > newest_migration:
        findings.append(
            fail(
                f"a newer cdrstream migrated this database (migration {facts.migration})",
                f"{newest_migration}",
                "use that version of cdrstream, or a newer one",
            )
        )
    if not database["has_view"]:
        findings.append(warn("view_cdrs is missing: reports read it", "the view", _PROVISION))
    if not facts.remote_may_read:
        findings.append(
            warn(
                "role cdrremote is missing or may not read cdrs and view_cdrs",
                "SELECT on both",
                "GRANT SELECT ON cdrs, view_cdrs TO cdrremote;",
            )
        )
    return findings or [ok(f"SIPXCDR version {SIPXCDR_VERSION}, migration {facts.migration}")]


def privileges(facts: SinkFacts) -> list[Finding]:
    """Whether the worker's role may write."""
    role = facts.database["role"]
    refused = [table for table, row in facts.privileges.items() if row["there"] and not row["may"]]
    if refused:
        return [
            fail(
                f"role {role} may not write {', '.join(refused)}",
                "SELECT, INSERT, UPDATE, DELETE",
                _PROVISION,
            )
        ]
    return [ok(f"role {role} may write")]


def replays(facts: SinkFacts, topic: str) -> list[Finding]:
    """Whether who listens to revisions has heard of every replay that was applied or taken back."""
    return [
        warn(
            f"replay {number} has changed CDRs, and who listens to {topic} does not know of all",
            "all of it told",
            f"cdrstream replay --resume {number}",
        )
        for number in facts.untold
    ] or [ok("all that replays have changed is told")]


def workers(facts: SinkFacts, partitions: int) -> list[Finding]:
    """Whether every partition's progress moves: a worker writes it at least every 5 s."""
    rows = {row["partition"]: row for row in facts.progress}
    if not rows:
        return [fail("no worker has ever written", "a worker", "cdrstream worker")]
    stale = [
        f"{number} (for {rows[number]['age_seconds']:.0f} s)" if number in rows else f"{number}"
        for number in range(partitions)
        if number not in rows or rows[number]["age_seconds"] > PROGRESS_STALE_SECONDS
    ]
    if stale:
        return [
            fail(
                f"no worker writes partition {', '.join(stale)}",
                f"progress within {PROGRESS_STALE_SECONDS} s",
                "cdrstream worker; if one runs, look at its log",
            )
        ]
    holders = sorted({row["holder"] for row in facts.progress})
    through = [row["watermark"] for row in facts.progress]
    if None in through:
        return [
            warn(
                "no watermark yet: the worker has not heard of every server",
                "a heartbeat of each",
                "start the readers: cdrstream reader",
            )
        ]
    moment = f"{min(through).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return [ok(f"{len(holders)} worker(s); all calls that ended before {moment} are recorded")]
