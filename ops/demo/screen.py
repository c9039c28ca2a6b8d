"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere.

Owns the wording and the layout. Refuses to ask anybody (`facts`) and to judge (`verdict`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ops.demo.facts import ServerFacts, SinkFacts
from ops.simulation.script import US

PLAIN_SECONDS: Final = 5.0
_LINES: Final = 6
_NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is shown at one moment."""

    servers: Sequence[ServerFacts]
    sink: SinkFacts | None
    expected: int
    waiting_for: str
    holder: str = ""


class Screen:
    """Shows pictures and remarks; use as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._remarks: deque[str] = deque(maxlen=_LINES)
        self._begun = time.monotonic()
        self._last_plain = 0.0
        self._picture: Picture | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=4, transient=True, auto_refresh=False
            )
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the live table off the terminal; remarks stay."""
        live, self._live = self._live, None
        if live is not None:
            live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        """A remark with the time since the beginning; it stays."""
        line = f"{time.monotonic() - self._begun:6.1f} s  {text}"
        if self._live is None:
            self._console.print(Text(line), soft_wrap=True)
            return
        self._live.console.print(Text(line))
        self._refresh()

    def show(self, picture: Picture) -> None:
        """The newest picture; on a terminal at once, elsewhere a line every few seconds."""
        self._picture = picture
        if self._live is not None:
            self._refresh()
        elif time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self.say(_plain(picture))

    def _refresh(self) -> None:
        if self._live is not None and self._picture is not None:
            self._live.update(_rich(self._picture), refresh=True)


def watermark_words(picture: Picture) -> str:
    """How far every partition is, and who holds it up."""
    sink = picture.sink
    if sink is None:
        return "the sink's database does not answer"
    if sink.watermark_us is None:
        return f"no watermark yet in {len(sink.behind)} partitions"
    moment = datetime.fromtimestamp(sink.watermark_us / US, UTC)
    behind = time.time() - sink.watermark_us / US
    held = f", held by {picture.holder}" if picture.holder else ""
    return (
        f"every call that ended before {moment:%H:%M:%S} is in cdrs ({behind:.1f} s behind{held})"
    )


def _plain(picture: Picture) -> str:
    servers = "; ".join(
        f"{one.name}: {one.written}/{one.planned} rows, in Kafka {_arrived(one)}, "
        f"lag {_seconds(one.capture_lag_seconds)}, clock {_offset(one)}"
        for one in picture.servers
    )
    cdrs = _NONE if picture.sink is None else str(picture.sink.cdrs)
    return f"{servers} | {cdrs}/{picture.expected} CDRs | {watermark_words(picture)}"


def _rich(picture: Picture) -> RenderableType:
    table = Table(title="servers", title_justify="left", box=None)
    table.padding, table.pad_edge, table.collapse_padding = (0, 1, 0, 0), False, True
    table.add_column("", no_wrap=True)
    for name in ("rows", "in Kafka", "again", "lag", "clock measured", "is", "unread"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reader", no_wrap=True)
    for one in picture.servers:
        table.add_row(
            one.name,
            f"{one.written}/{one.planned}",
            str(one.arrived),
            str(one.again),
            _seconds(one.capture_lag_seconds),
            _offset(one),
            f"{one.real_offset_ms / 1_000:+.3f}",
            _NONE if one.unread_bytes is None else f"{one.unread_bytes / 1_024:.0f} K",
            one.state,
        )
    sink = picture.sink
    lines = [
        Text(watermark_words(picture)),
        Text(
            f"CDRs {_NONE if sink is None else sink.cdrs} of {picture.expected}"
            + ("" if sink is None else f", hidden {sink.hidden}, revised by late events ")
            + ("" if sink is None else str(sink.revised))
        ),
        Text(f"waiting for {picture.waiting_for}"),
    ]
    return Group(table, *lines)


def _arrived(one: ServerFacts) -> str:
    return f"{one.arrived}" + (f" (+{one.again} again)" if one.again else "")


def _seconds(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f} s"


def _offset(one: ServerFacts) -> str:
    if one.offset_ms is None:
        return "not measured"
    error = "" if one.error_ms is None else f" +- {one.error_ms:.1f} ms"
    return f"{one.offset_ms / 1_000:+.3f} s{error}"
