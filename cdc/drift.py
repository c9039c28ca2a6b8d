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
# In the order that the tables have.
SCHEMA_7: Final[Mapping[str, Mapping[str, int]]] = {
    CALL_TABLE: {
        "id": INT8,
        "observer": _TEXT,
        "event_seq": INT8,
        "event_time": TIMESTAMP,
        "event_type": _CHAR,
        "cseq": INT4,
        "call_id": _TEXT,
        "from_tag": _TEXT,
        "to_tag": _TEXT,
        "from_url": _TEXT,
        "to_url": _TEXT,
        "contact": _TEXT,
        "refer_to": _TEXT,
        "referred_by": _TEXT,
        "failure_status": INT2,
        "failure_reason": _TEXT,
        "request_uri": _TEXT,
        "reference": _TEXT,
        "caller_internal": BOOL,
        "callee_route": _TEXT,
        "branch_id": _TEXT,
        "via_count": INT2,
    },
    OBSERVER_TABLE: {
        "id": INT8,
        "observer": _TEXT,
        "event_seq": INT8,
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
