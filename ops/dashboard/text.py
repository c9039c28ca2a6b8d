"""What strangers wrote, made fit for a page: every filter that templates use.

Owns which characters of a SIP header reach a page, how people's addresses are hidden, and how
moments and figures are marked up. Escaping itself is Jinja's, for every value, always.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from markupsafe import Markup, escape

from ops.monitor import words
from ops.visible import visible

CUT_CHARACTERS: Final = 512
SHORT_CHARACTERS: Final = 60
Privacy = Literal["full", "masked", "none"]
_USER: Final = re.compile(r"(?P<before>sips?:|tel:)(?P<user>[^@;>\s]*)", re.IGNORECASE)
_CLOCK: Final = re.compile(r"\b([0-2]\d:[0-5]\d:[0-5]\d) UTC")
_NAME: Final = re.compile(r'^\s*("(?:[^"\\]|\\.)*"|[^<"]*)\s*(?=<)')


def shown(value: Any, characters: int = CUT_CHARACTERS) -> Markup:
    """A stranger's text: hidden characters spelt out, cut with the whole of it to be opened."""
    text = visible(str(value if value is not None else ""))
    if not text:
        return Markup('<span class="none">-</span>')
    if len(text) <= characters:
        return Markup('<bdi class="theirs">{}</bdi>').format(text)
    rest = len(text) - characters
    return Markup(
        '<details class="long"><summary><bdi class="theirs">{}</bdi>… {} more</summary>'
        '<bdi class="theirs">{}</bdi></details>'
    ).format(text[:characters], f"{rest:,}", text)


def short(value: Any) -> Markup:
    """The same for a cell of a table: cut earlier, the beginning in the title."""
    text = visible(str(value if value is not None else ""))
    if len(text) <= SHORT_CHARACTERS:
        return shown(text)
    return Markup('<bdi class="theirs" title="{}">{}…</bdi>').format(
        text[:CUT_CHARACTERS], text[:SHORT_CHARACTERS]
    )


def hider(privacy: Privacy) -> Callable[[Any], str]:
    """A function that hides as much of an address as the configuration asks for."""

    def hide(value: Any) -> str:
        text = str(value if value is not None else "")
        if privacy == "full" or not text:
            return text
        if privacy == "none":
            return "(hidden)"
        nameless = _NAME.sub("", text)
        return _USER.sub(lambda found: found["before"] + _masked(found["user"]), nameless)

    return hide


def _masked(user: str) -> str:
    return user[:2] + "***" if len(user) > 2 else "***"


def moment(value: float | str | datetime | None, form: str = "time") -> Markup:
    """A `<time>` in UTC, which the page's script tells in the viewer's zone."""
    at = _parsed(value)
    if at is None:
        return Markup('<span class="none">-</span>')
    text = {
        "time": f"{at:%H:%M:%S}",
        "date": f"{at:%Y-%m-%d %H:%M:%S}",
        "ms": at.strftime("%H:%M:%S.%f")[:-3],
        "date-ms": at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
    }[form]
    return Markup('<time datetime="{}" data-form="{}" title="{} UTC">{} UTC</time>').format(
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        form,
        f"{at:%Y-%m-%d} {text[-12:] if form.endswith('ms') else text[-8:]}",
        text,
    )


def with_times(text: str, at: float) -> Markup:
    """A sentence with its `12:03:41 UTC` marked up as moments near `at`."""
    parts: list[Markup] = []
    begin = 0
    for found in _CLOCK.finditer(text):
        parts += [escape(visible(text[begin : found.start()])), _nearest(found[1], at)]
        begin = found.end()
    return Markup("").join((*parts, escape(visible(text[begin:]))))


def _nearest(clock: str, at: float) -> Markup:
    """The time of day within twelve hours of a moment."""
    hours, minutes, seconds = map(int, clock.split(":"))
    into = hours * 3_600 + minutes * 60 + seconds
    return moment(at + (into - at % 86_400 + 43_200) % 86_400 - 43_200)


def segment(call_id: Any) -> str:
    """A Call-ID as one segment of a path: `../` in it leads nowhere else."""
    return quote(str(call_id), safe="")


def _parsed(value: float | str | datetime | None) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return None


def seconds_between(earlier: Any, later: Any) -> float | None:
    """From one moment to another."""
    before, after = _parsed(earlier), _parsed(later)
    return None if before is None or after is None else (after - before).total_seconds()


def number(value: float | None) -> str:
    """`12,345`."""
    return words.NONE if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """`12.3 %`, of a share."""
    return words.NONE if value is None else f"{100 * value:.1f} %"


def filters(privacy: Privacy) -> dict[str, Callable[..., Any]]:
    """All of them by the names that templates use."""
    return {
        "shown": shown,
        "short": short,
        "people": hider(privacy),
        "moment": moment,
        "with_times": with_times,
        "segment": segment,
        "number": number,
        "percent": percent,
        "duration": words.duration,
        "seconds_between": seconds_between,
        "size": words.size,
        "offset": words.offset,
        "lag": lambda value: words.NONE if value is None else words.duration(max(0.0, value)),
    }


__all__ = ["escape", "filters", "hider", "moment", "seconds_between", "short", "shown"]
