"""The type of connection strings in the configuration.

Owns that they are never shown with their passwords.
"""

from __future__ import annotations

from pydantic import Secret

from ops.redaction import redact_dsn


class Dsn(Secret[str]):
    """A PostgreSQL connection string, as `key=value` pairs or URI; shown without its passwords."""

    def _display(self) -> str:
        return redact_dsn(self.get_secret_value())
