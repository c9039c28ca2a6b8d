"""The password of a role that is made: hashed before it goes to the server, as psql does it too.

Owns the clause. So a server that logs statements never logs a password.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict


def password_clause(conn: psycopg.Connection[Any], role: str, dsn: str) -> sql.Composable:
    """` PASSWORD ...` for CREATE ROLE, of the connection string's password; nothing without one."""
    password = conninfo_to_dict(dsn).get("password")
    if password is None:
        return sql.SQL("")
    # No algorithm named: as the server's password_encryption says.
    hashed = conn.pgconn.encrypt_password(str(password).encode(), role.encode())
    return sql.SQL(" PASSWORD {}").format(hashed.decode())
