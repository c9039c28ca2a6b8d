"""Passwords on a command line, which everybody on the machine can read (`ps`).

Owns noticing them, and what is said then: where they are kept from others. Never repeats one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from psycopg.conninfo import conninfo_to_dict

from ops.redaction import HIDDEN, why_no_dsn

if TYPE_CHECKING:
    from ops.config_sources import Loaded

_SEEN: Final = "notice: everybody on this machine can read a command line"


def in_admin_dsns(dsns: Sequence[str]) -> str:
    """What to say to who put a password into `--admin-dsn`; empty where nobody did.

    Args:
        dsns: `NAME=DSN`, as they were typed; what cannot be read is somebody else's to tell.
    """
    for argument in dsns:
        dsn = argument.partition("=")[2]
        if not why_no_dsn(dsn) and conninfo_to_dict(dsn).get("password"):
            return f"{_SEEN}; PGPASSFILE or ~/.pgpass keeps a password from it"
    return ""


def in_settings(loaded: Loaded) -> str:
    """What to say to who put a password into `--set`; empty where nobody did."""
    from pydantic import Secret, SecretStr  # noqa: PLC0415  slow to load

    from ops.config_report import settings_in_effect  # noqa: PLC0415

    held = {
        loaded.origin(path).removeprefix("flag "): path
        for path, value in settings_in_effect(loaded.config)
        if isinstance(value, (Secret, SecretStr))
        and loaded.origin(path).startswith("flag ")
        and HIDDEN in str(value)
    }
    if not held:
        return ""
    variable = "CDRSTREAM_" + "__".join(next(iter(held.values()))).upper().replace("-", "_")
    return (
        f"{_SEEN}, and the password in {', '.join(held)} with it; the configuration file"
        f" (mode 600) or {variable} in the environment keeps it from them"
    )
