"""How figures are said to people: seconds, bytes, moments.

Owns the wording that terminal and pages share. Not known is `-`, and never 0.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

NONE: Final = "-"
_MINUTE: Final = 60.0
_HOUR: Final = 3_600.0
_DAY: Final = 86_400.0


def duration(seconds: float | None) -> str:
    """`0.3 s`, `42 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`."""
    if seconds is None:
        return NONE
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
    return f"{seconds // _DAY:.0f} d {seconds % _DAY // _HOUR:.0f} h"


def size(count: float | None) -> str:
    """`0 B`, `512 KiB`, `1.4 GiB`."""
    if count is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1_024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit in ("B", "KiB") else f"{count:.1f} {unit}"
        count /= 1_024
    raise AssertionError


def signed(seconds: float) -> str:
    """`+0.700 s`."""
    return f"{seconds:+.3f} s"


def offset(seconds: float | None, error: float | None) -> str:
    """`-5.500 s ± 0.001`."""
    if seconds is None:
        return "not measured"
    return signed(seconds) + ("" if error is None else f" ± {error:.3f}")


def clock(moment: float | None) -> str:
    """`12:03:41` in UTC."""
    return NONE if moment is None else f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}"


def count(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
