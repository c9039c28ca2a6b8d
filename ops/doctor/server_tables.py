"""Does a server have the tables and the publication, and may our role read them?

Owns the judgement of these facts, beside schema version 7. Who reads is judged by `server_slot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ops.doctor.checks import Finding, fail, ok, warn
from ops.doctor.server_facts import ServerFacts

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
