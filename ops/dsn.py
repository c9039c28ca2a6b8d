"""Connection strings: what they have in common, and more options for them.

Owns their comparison and extension. Refuses to connect and to show them (`ops.redaction`).
"""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict, make_conninfo


def with_options(dsn: str, options: str) -> str:
    """The connection string with settings of the session behind those that it has already."""
    own = conninfo_to_dict(dsn).get("options")
    return make_conninfo(dsn, options=f"{own} {options}" if own else options)


def same_host(one: str, other: str) -> bool:
    """Whether two connection strings surely lead to one machine, which then has one clock."""
    first, second = (conninfo_to_dict(dsn) for dsn in (one, other))
    return all(first.get(key) == second.get(key) for key in ("host", "hostaddr", "port"))
