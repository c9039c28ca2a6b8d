"""Is one PostgreSQL server fit to be read from?

Owns the judgement of its facts: pure functions from `ServerFacts` to findings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from cdc.lsn import lsn_text
from cdc.position_store import StoredPosition
from cdc.slot import Identity, check_position
from ops.doctor.checks import Finding, cannot_tell, fail, ok, warn
from ops.doctor.server_facts import ServerFacts

OLDEST_VERSION: Final = 140_000
LONG_TRANSACTION_SECONDS: Final = 300
RETAINED_BYTES_WARN: Final = 10 * 1024**3
LOW_SHARE: Final = 0.15
OUTAGE_HOURS_LEAST: Final = 1.0
ROWS_KEPT_SECONDS_LEAST: Final = 86_400.0
_NAME_CHARACTERS_MAX: Final = 63  # of an application_name; PostgreSQL cuts off what is beyond
CALL_TABLE: Final = "call_state_events"
OBSERVER_TABLE: Final = "observer_state_events"
TABLES: Final = (CALL_TABLE, OBSERVER_TABLE)
# Schema version 7, as docs/architecture.md speaks of it. `character` is what char(1) is called.
SCHEMA_7: Final[Mapping[str, Mapping[str, str]]] = {
    CALL_TABLE: {
        "id": "bigint",
        "observer": "text",
        "event_seq": "bigint",
        "event_time": "timestamp without time zone",
        "event_type": "character(1)",
        "cseq": "integer",
        "call_id": "text",
        "from_tag": "text",
        "to_tag": "text",
        "from_url": "text",
        "to_url": "text",
        "contact": "text",
        "refer_to": "text",
        "referred_by": "text",
        "failure_status": "smallint",
        "failure_reason": "text",
        "request_uri": "text",
        "reference": "text",
        "caller_internal": "boolean",
        "callee_route": "text",
        "branch_id": "text",
        "via_count": "smallint",
    },
    OBSERVER_TABLE: {
        "id": "bigint",
        "observer": "text",
        "event_seq": "bigint",
        "event_time": "timestamp without time zone",
        "status": "smallint",
        "msg": "text",
    },
}
_PROVISION: Final = "cdrstream provision --admin-dsn {name}='host=... user=postgres ...'"


def version(facts: ServerFacts) -> list[Finding]:
    """PostgreSQL's version, and whether the connection is encrypted."""
    server = facts.server
    findings = [
        ok(f"PostgreSQL {server['version']}, database {server['database']}")
        if server["version_num"] >= OLDEST_VERSION
        else fail(f"PostgreSQL {server['version']}", "14 or newer", "upgrade that server")
    ]
    if not server["tls"] and not server["same_machine"]:
        findings.append(
            warn("the connection is not encrypted", "TLS", "add sslmode=verify-full to the dsn")
        )
    return findings


def rights(name: str, facts: ServerFacts) -> list[Finding]:
    """Whether the role may stream."""
    role = facts.server["role"]
    if facts.server["may_replicate"]:
        return [ok(f"role {role} may replicate")]
    return [
        fail(
            f"role {role} may not replicate",
            "LOGIN and REPLICATION",
            f'ALTER ROLE "{role}" REPLICATION;   or: {_PROVISION.format(name=name)}',
        )
    ]


def settings(facts: ServerFacts) -> list[Finding]:
    """Whether the server writes what is needed and has room for one more reader."""
    server = facts.server
    findings = []
    if server["wal_level"] == "logical":
        findings.append(ok("wal_level = logical"))
    else:
        findings.append(
            fail(
                f"wal_level = {server['wal_level']}",
                "logical",
                "ALTER SYSTEM SET wal_level = 'logical';   then restart PostgreSQL",
            )
        )
    has_slot = facts.slot is not None
    for what, setting, used, most in (
        ("replication slots", "max_replication_slots", server["slots_used"], server["slots_max"]),
        ("WAL senders", "max_wal_senders", server["senders_used"], server["senders_max"]),
    ):
        free = most - used
        text = f"{used} of {most} {what} in use"
        advice = f"ALTER SYSTEM SET {setting} = {most + 10};   then restart PostgreSQL"
        if free <= 0 and not has_slot:
            findings.append(fail(text, "one free", advice))
        elif free <= 1 and not has_slot:
            findings.append(warn(text, "one more for taking over", advice))
        else:
            findings.append(ok(text))
    if server["slot_wal_keep_size"] == "-1":
        findings.append(
            warn(
                "max_slot_wal_keep_size = -1: a dead reader can fill the server's disk",
                "a limit, so that telephony goes on",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB';   then SELECT pg_reload_conf();",
            )
        )
    else:
        findings.append(_room_for_outages(server["slot_wal_keep_size"], facts))
    idle = str(server["idle_slot_timeout"] or "0")
    if re.sub(r"\D", "", idle).strip("0"):
        findings.append(
            warn(
                f"idle_replication_slot_timeout = {idle}: a reader away for longer loses its slot",
                "0",
                "ALTER SYSTEM SET idle_replication_slot_timeout = 0;"
                "   then SELECT pg_reload_conf();",
            )
        )
    return findings


def _room_for_outages(keep: str, facts: ServerFacts) -> Finding:
    """How long a reader may be away, by how much log the server has written an hour till now."""
    log = facts.log
    if log is None or not log["hours"] or log["hours"] < 1 or not log["bytes"]:
        return ok(f"max_slot_wal_keep_size = {keep}")
    hours = log["keep_bytes"] / (log["bytes"] / log["hours"])
    if hours < OUTAGE_HOURS_LEAST:
        return warn(
            f"max_slot_wal_keep_size = {keep} is {hours * 60:.0f} minutes of this server's log",
            "more than the longest outage of a reader; an hour at least",
            f"ALTER SYSTEM SET max_slot_wal_keep_size = '{_gigabytes(log)}GB';"
            "   then SELECT pg_reload_conf();",
        )
    return ok(f"max_slot_wal_keep_size = {keep}, {hours:,.0f} hours of this server's log")


def _gigabytes(log: Mapping[str, Any]) -> int:
    """What a day writes."""
    a_day: float = 24 * log["bytes"] / log["hours"]
    return max(1, math.ceil(a_day / 1024**3))


def tables(facts: ServerFacts, *, backfill: bool) -> list[Finding]:
    """The two tables against schema version 7, and the encoding of their text.

    Args:
        facts: The server's.
        backfill: Whether a reader reads rows from before its slot, and so needs SELECT.
    """
    findings: list[Finding] = []
    for table, wanted in SCHEMA_7.items():
        found = _table(table, facts.columns.get(table, {}), wanted, facts)
        findings.append(found or _readable(table, facts, backfill=backfill))
    encoding = facts.server["encoding"]
    if encoding == "SQL_ASCII":
        findings.append(
            warn(
                "the database is SQL_ASCII: its text may be in any encoding",
                "UTF8",
                "nothing to do now; text that is not UTF-8 is read with replacement characters",
            )
        )
    else:
        findings.append(ok(f"encoding {encoding}"))
    return findings


def _table(
    table: str, there: Mapping[str, str], wanted: Mapping[str, str], facts: ServerFacts
) -> Finding | None:
    if not there:
        database = facts.server["database"]
        return fail(
            f"database {database} has no table {table}",
            "SIPXCDR, schema version 7",
            "correct dbname in the dsn (names are case sensitive), or run cdrstream provision",
        )
    wrong = [
        f"{column} is {there.get(column, 'missing')} (needs {kind})"
        for column, kind in wanted.items()
        if there.get(column) != kind
    ]
    if wrong:
        return fail(f"{table}: {'; '.join(wrong)}", "schema version 7", "restore these columns")
    return None


def _readable(table: str, facts: ServerFacts, *, backfill: bool) -> Finding:
    if facts.readable.get(table):
        return ok(f"{table} as in schema version 7, readable")
    role = facts.server["role"]
    judge = fail if backfill else warn
    return judge(
        f"{table} is not readable by role {role}: no rows from before its slot",
        "SELECT" if backfill else "SELECT, or reader.start_mode = 'now' for good",
        f'GRANT SELECT ON {table} TO "{role}";',
    )


def publication(name: str, wanted: str, facts: ServerFacts) -> list[Finding]:
    """Whether the publication carries the inserts of the tables and nothing else."""
    there = facts.publication
    advice = _PROVISION.format(name=name)
    if there is None:
        by_hand = f"CREATE PUBLICATION {wanted} FOR TABLE {', '.join(TABLES)} " + (
            "WITH (publish = 'insert');"
        )
        return [fail(f"there is no publication {wanted}", "one", f"{by_hand}   or: {advice}")]
    published = there["tables"] or []
    missing = [table for table in TABLES if table not in published]
    findings = []
    if CALL_TABLE in missing:
        findings.append(
            fail(
                f"publication {wanted} lacks {CALL_TABLE}",
                "that table in it",
                f"ALTER PUBLICATION {wanted} ADD TABLE {CALL_TABLE};   or: {advice}",
            )
        )
    elif missing:
        findings.append(
            warn(
                f"publication {wanted} lacks {OBSERVER_TABLE}: restarts of proxies are not seen",
                "that table in it",
                f"ALTER PUBLICATION {wanted} ADD TABLE {OBSERVER_TABLE};",
            )
        )
    if not there["pubinsert"]:
        findings.append(
            fail(
                f"publication {wanted} does not publish inserts",
                "publish = 'insert'",
                f"ALTER PUBLICATION {wanted} SET (publish = 'insert');",
            )
        )
    if there.get("filtered"):
        filtered = ", ".join(there["filtered"])
        findings.append(
            fail(
                f"publication {wanted} leaves out rows of {filtered}",
                "no WHERE",
                f"ALTER PUBLICATION {wanted} SET TABLE {', '.join(TABLES)};",
            )
        )
    if there["pubupdate"] or there["pubdelete"] or there["pubtruncate"]:
        findings.append(
            warn(
                f"publication {wanted} publishes more than inserts: a purge then floods the log",
                "publish = 'insert'",
                f"ALTER PUBLICATION {wanted} SET (publish = 'insert');",
            )
        )
    return findings or [ok(f"publication {wanted} publishes the inserts of both tables")]


def slot(name: str, wanted: str, facts: ServerFacts, *, reader: str = "cdrstream") -> list[Finding]:
    """Whether the replication slot is there, ours, alive and not too far behind.

    Args:
        name: The server's, in the configuration.
        wanted: The slot's.
        facts: The server's.
        reader: What our reader calls itself there (`application_name`).
    """
    there = facts.slot
    if there is None:
        return [
            fail(
                f"there is no replication slot {wanted}",
                "one; it keeps what the reader has not read",
                f"cdrstream provision, or start the reader: cdrstream reader --server {name}",
            )
        ]
    database = facts.server["database"]
    if there["slot_type"] != "logical" or there["plugin"] != "pgoutput":
        return [
            fail(
                f"slot {wanted} is {there['slot_type']}, plugin {there['plugin']}",
                "logical, plugin pgoutput",
                f"set servers.{name}.slot to another name",
            )
        ]
    if there["database"] != database:
        return [
            fail(
                f"slot {wanted} belongs to database {there['database']}",
                database,
                f"set servers.{name}.slot to another name",
            )
        ]
    if there["wal_status"] == "lost":
        return [
            fail(
                f"slot {wanted} is lost: PostgreSQL removed log that had not been read",
                "a new slot and a backfill: the reader makes both, and records the gap",
                f"raise max_slot_wal_keep_size, then: cdrstream reader --server {name}",
            )
        ]
    return _slot_health(name, wanted, facts, reader)


def _slot_health(name: str, wanted: str, facts: ServerFacts, reader: str) -> list[Finding]:
    there = facts.slot
    assert there is not None
    findings = []
    if not there["active"]:
        findings.append(
            warn(
                f"slot {wanted} is not being read",
                "a running reader",
                f"cdrstream reader --server {name}",
            )
        )
    elif there.get("read_by") and not _is_ours(there["read_by"], reader):
        findings.append(
            warn(
                f"slot {wanted} is being read by {there['read_by']!r}",
                "our reader, and nobody else: what it takes we never see",
                f"end that program, or set servers.{name}.slot to another name",
            )
        )
    if there["wal_status"] in ("extended", "unreserved"):
        findings.append(
            warn(
                f"slot {wanted} holds more log than max_wal_size ({there['wal_status']})",
                "a reader that keeps up",
                "look at the reader's log; raise max_slot_wal_keep_size meanwhile",
            )
        )
    safe, retained = there["safe_wal_size"], there["retained_bytes"]
    if safe is not None and safe < LOW_SHARE * (safe + max(0, retained or 0)):
        findings.append(
            warn(
                f"slot {wanted} will be lost after {max(0, safe) / 1024**2:.0f} MiB more log",
                f"{LOW_SHARE:.0%} of max_slot_wal_keep_size free",
                "raise max_slot_wal_keep_size on that server now, then look at the reader's log",
            )
        )
    if retained is not None and retained > RETAINED_BYTES_WARN:
        findings.append(
            warn(
                f"slot {wanted} retains {retained / 1024**3:.1f} GiB of log",
                "less than 10 GiB",
                "unread small but retained large is a long transaction: see pg_stat_activity",
            )
        )
    unread = there["unread_bytes"]
    unread_text = "unknown" if unread is None else f"{unread / 1024:.0f} KiB"
    return findings or [ok(f"slot {wanted} is being read, {unread_text} unread")]


def _is_ours(read_by: str, reader: str) -> bool:
    return read_by.startswith("cdrstream") or read_by == reader[:_NAME_CHARACTERS_MAX]


def resume(stored: StoredPosition | None, identity: Identity) -> list[Finding]:
    """Whether the stored position is one of this server's history.

    Raises:
        ServerChanged: It is not; going on would lose events in silence.
    """
    if stored is None:
        return [ok("no position is stored: the reader begins with all that the tables hold")]
    check_position(stored, identity)
    if stored.backfilling:
        return [ok(f"the reader was reading rows from before its slot ({stored.backfill_table})")]
    return [ok(f"the reader goes on at {lsn_text(stored.lsn)}")]


def load(facts: ServerFacts) -> list[Finding]:
    """Transactions that hold the log and make rows late, and rows that are gone too soon."""
    oldest, purge = facts.oldest_transaction, facts.purge
    findings = []
    if purge is not None and purge["is_purged"]:
        kept = purge["oldest_seconds"]
        if kept is not None and kept < ROWS_KEPT_SECONDS_LEAST:
            findings.append(
                warn(
                    f"rows are purged after {kept / 3_600:.1f} h: a lost slot reads no older again",
                    "more than the longest outage of a reader; a day at least",
                    "purge later there, or by: cdrstream purge --servers",
                )
            )
    return findings + _transactions(oldest, facts)


def _transactions(oldest: Mapping[str, Any], facts: ServerFacts) -> list[Finding]:
    if not oldest.get("may_look"):
        role = facts.server["role"]
        return [cannot_tell("other users' transactions", f'GRANT pg_read_all_stats TO "{role}";')]
    seconds = oldest.get("seconds")
    if seconds is not None and seconds > LONG_TRANSACTION_SECONDS:
        return [
            warn(
                f"a transaction is open for {seconds:.0f} s: it holds the log, its rows are late",
                f"less than {LONG_TRANSACTION_SECONDS} s",
                "SELECT pid, usename, query FROM pg_stat_activity ORDER BY xact_start;",
            )
        ]
    return [ok("no long transaction")]


def group_of(name: str) -> str:
    """How a server's checks are headed."""
    return f"server {name}"
