"""Is one PostgreSQL server fit to be read from: its version, its settings, what goes on in it?

Owns the judgement of these facts: pure functions from `ServerFacts` to findings. Tables and rights
are judged by `server_tables`, the slot by `server_slot`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from ops.doctor.checks import Finding, cannot_tell, fail, ok, warn
from ops.doctor.server_facts import ServerFacts

OLDEST_VERSION: Final = 140_000
LONG_TRANSACTION_SECONDS: Final = 300
OUTAGE_HOURS_LEAST: Final = 1.0
ROWS_KEPT_SECONDS_LEAST: Final = 86_400.0


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
