"""How a table's columns differ from schema version 7.

Owns the columns that the tables have, and what is said of others. Refuses to stop anything for it:
rows go on as they are, with their own columns, and what nobody can read becomes a dead letter
later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cdc.rows import BOOL, INT2, INT4, INT8, TIMESTAMP, Column
from cdc.settings import CALL_TABLE, OBSERVER_TABLE

_TEXT, _CHAR = 25, 1042
_TEXTS: Final = (
    *("observer", "call_id", "from_tag", "to_tag", "from_url", "to_url", "contact", "refer_to"),
    *("referred_by", "failure_reason", "request_uri", "reference", "callee_route", "branch_id"),
)
SCHEMA_7: Final[Mapping[str, Mapping[str, int]]] = {
    CALL_TABLE: {
        **dict.fromkeys(_TEXTS, _TEXT),
        **dict.fromkeys(("id", "event_seq"), INT8),
        **dict.fromkeys(("failure_status", "via_count"), INT2),
        "event_time": TIMESTAMP,
        "event_type": _CHAR,
        "cseq": INT4,
        "caller_internal": BOOL,
    },
    OBSERVER_TABLE: {
        **dict.fromkeys(("id", "event_seq"), INT8),
        "observer": _TEXT,
        "event_time": TIMESTAMP,
        "status": INT2,
        "msg": _TEXT,
    },
}


def differences(table: str, columns: Sequence[Column]) -> dict[str, str]:
    """What differs, by kind (`missing`, `added`, `retyped`), each a list of names; or nothing."""
    wanted = SCHEMA_7[table]
    there = {column.name: column.type_oid for column in columns}
    found = {
        "missing": [name for name in wanted if name not in there],
        "added": [name for name in there if name not in wanted],
        "retyped": [name for name, oid in wanted.items() if there.get(name, oid) != oid],
    }
    return {kind: ", ".join(names) for kind, names in found.items() if names}
