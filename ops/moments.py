"""A moment as somebody types it.

Owns its reading.
"""

from __future__ import annotations

from datetime import UTC, datetime

from ops.errors import ConfigError


def moment(text: str, name: str) -> datetime:
    """An ISO 8601 time; without a zone it is UTC.

    Raises:
        ConfigError: It is not one.
    """
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{name} {text!r}: must be a time in ISO 8601", "for example 2026-01-31T12:00:00Z"
        ) from None
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
