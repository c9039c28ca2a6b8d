"""Is a server's replication slot there, ours, read, and where our position says?

Owns the judgement of these facts.
"""

from __future__ import annotations

from typing import Final

from cdc.lsn import lsn_text
from cdc.position_store import StoredPosition
from cdc.slot import Identity, check_position
from ops.doctor.checks import Finding, fail, ok, warn
from ops.doctor.server_facts import ServerFacts

RETAINED_BYTES_WARN: Final = 10 * 1024**3
LOW_SHARE: Final = 0.15
_NAME_CHARACTERS_MAX: Final = 63  # of an application_name; PostgreSQL cuts off what is beyond


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
