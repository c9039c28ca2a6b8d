"""A call as a ladder: who was seen to send what to whom, as geometry for an SVG.

Owns lanes, rows and arrows, made from a call's provenance and nothing else. We hold observations
and not packets: each row is what one proxy wrote, an arrow into its lane; a stretch that nobody saw
is dashed. Rows stand in resolved order (CSeq, Via), never by time, unless the clocks' own order is
asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ops.dashboard.text import seconds_between
from ops.explain import MESSAGES

ROWS_MAX: Final = 200
LANE_WIDTH: Final = 168
ROW_HEIGHT: Final = 40
HEAD_HEIGHT: Final = 52
GUTTER: Final = 130
RIGHT_GUTTER: Final = 190
CALLER: Final = "caller"
CALLEE: Final = "callee"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lane:
    """A vertical line: an end of the call, or a proxy that wrote events."""

    key: tuple[str, str]
    title: str
    detail: str
    x: int
    observer: bool
    won: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One event: an arrow from `x1` to the dot at `x2`."""

    number: int
    y: int
    x1: int
    x2: int
    dashed: bool
    kind: str
    label: str
    time: str
    delta: float | None
    raw_time: str
    offset: float | None
    error: float | None
    server: str
    observer: str
    cseq: int
    marks: tuple[str, ...]

    @property
    def middle(self) -> float:
        """Where the label stands."""
        return (self.x1 + self.x2) / 2

    @property
    def head(self) -> str:
        """Points of the arrow's head."""
        back = -7 if self.x2 >= self.x1 else 7
        tip = self.x2 + (-5 if self.x2 >= self.x1 else 5)
        return f"{tip},{self.y} {tip + back},{self.y - 4} {tip + back},{self.y + 4}"


@dataclass(frozen=True, slots=True)
class Ladder:
    """All of it; sizes in pixels."""

    lanes: tuple[Lane, ...]
    rows: tuple[Row, ...]
    width: int
    height: int
    left_out: int
    by_clock: bool


def ladder(provenance: Json, *, caller: str = "", by_clock: bool = False) -> Ladder:
    """The ladder of one call.

    Args:
        provenance: Its events stand in resolved order.
        caller: What the caller's lane is called besides.
        by_clock: Sort by the times as the servers wrote them instead.
    """
    events: Sequence[Json] = provenance.get("events") or ()
    numbered = list(enumerate(events, start=1))
    if by_clock:
        numbered.sort(key=lambda item: str(item[1].get("raw_time")))
    caller_tag = _caller_tag(events)
    lanes = _lanes(provenance, events, caller, caller_tag)
    against = {index + 1 for pair in provenance.get("inversions") or () for index in pair}
    rows = []
    previous: Json | None = None
    for place, (number, event) in enumerate(numbered[:ROWS_MAX]):
        x1, x2, dashed = _arrow(event, events, lanes, caller_tag)
        rows.append(
            Row(
                number=number,
                y=ROW_HEIGHT * place + ROW_HEIGHT // 2 + 8,
                x1=x1,
                x2=x2,
                dashed=dashed,
                kind=str(event.get("event_type")),
                label=_label(event),
                time=str(event.get("time")),
                delta=None
                if previous is None
                else seconds_between(previous["time"], event["time"]),
                raw_time=str(event.get("raw_time")),
                offset=_clock(event, 0),
                error=_clock(event, 1),
                server=str(event.get("server")),
                observer=str(event.get("observer") or ""),
                cseq=int(event.get("cseq") or 0),
                marks=_marks(event, number in against),
            )
        )
        previous = event
    return Ladder(
        lanes=tuple(lanes.values()),
        rows=tuple(rows),
        width=GUTTER + LANE_WIDTH * len(lanes) + RIGHT_GUTTER,
        height=ROW_HEIGHT * len(rows) + 16,
        left_out=max(0, len(events) - ROWS_MAX),
        by_clock=by_clock,
    )


def _caller_tag(events: Sequence[Json]) -> str:
    for event in events:
        if event.get("event_type") in ("R", "S", "F"):
            return str(event.get("from_tag") or "")
    return ""


def _observer_key(event: Json) -> tuple[str, str]:
    return str(event.get("server")), str(event.get("observer") or "")


def _callee_tag(event: Json, caller_tag: str) -> str:
    """The leg's other tag; `''` where the event knows none."""
    tags = (str(event.get("from_tag") or ""), str(event.get("to_tag") or ""))
    return next((tag for tag in reversed(tags) if tag and tag != caller_tag), "")


def _lanes(
    provenance: Json, events: Sequence[Json], caller: str, caller_tag: str
) -> dict[tuple[str, str], Lane]:
    """Caller, observers from the caller's side to the callee's, one lane a leg."""
    rank: dict[tuple[str, str], tuple[int, int]] = {}
    for place, event in enumerate(events):
        via = int(event.get("via_count") or 0) if event.get("event_type") in ("R", "S", "F") else 0
        key = _observer_key(event)
        known = rank.get(key, (1_000_000, place))
        rank[key] = (min(known[0], via or 1_000_000), known[1])
    legs = [str(leg.get("to_tag") or "") for leg in provenance.get("legs") or ()]
    legs = [tag for tag in legs if tag] or [""]
    lanes: dict[tuple[str, str], Lane] = {}

    def add(key: tuple[str, str], title: str, detail: str, *, observer: bool, won: bool) -> None:
        x = GUTTER + LANE_WIDTH * len(lanes) + LANE_WIDTH // 2
        lanes[key] = Lane(key, title, detail, x, observer, won)

    add((CALLER, ""), "caller", caller, observer=False, won=False)
    for key in sorted(rank, key=lambda each: rank[each]):
        add(key, f"server {key[0]}", key[1], observer=True, won=False)
    for number, tag in enumerate(legs):
        won = number == 0 and len(legs) > 1
        title = "callee" if len(legs) == 1 else f"leg {number + 1}" + (", won" if won else "")
        add((CALLEE, tag), title, f"tag {tag}" if tag else "", observer=False, won=won)
    return lanes


def _arrow(
    event: Json,
    events: Sequence[Json],
    lanes: Mapping[tuple[str, str], Lane],
    caller_tag: str,
) -> tuple[int, int, bool]:
    """From where, to whose dot, and whether nobody saw it leave."""
    own = lanes[_observer_key(event)]
    kind = event.get("event_type")
    rightward = kind == "R" or (
        kind in ("E", "T") and str(event.get("from_tag") or "") == caller_tag
    )
    alike = {
        _observer_key(other)
        for other in events
        if other.get("event_type") == kind
        and other.get("cseq") == event.get("cseq")
        and other.get("from_tag") == event.get("from_tag")
    }
    seen = [lane for key, lane in lanes.items() if key in alike and lane.observer]
    if rightward:
        before = [lane for lane in seen if lane.x < own.x]
        source = max(before, key=lambda lane: lane.x, default=lanes[CALLER, ""])
    else:
        before = [lane for lane in seen if lane.x > own.x]
        end = lanes.get((CALLEE, _callee_tag(event, caller_tag)))
        if end is None:
            end = next(lane for key, lane in lanes.items() if key[0] == CALLEE)
        source = min(before, key=lambda lane: lane.x, default=end)
    return source.x, own.x, not source.observer


def _label(event: Json) -> str:
    kind = str(event.get("event_type"))
    name = MESSAGES.get(kind, kind)
    if kind == "F":
        name = f"{event.get('failure_status') or ''} {event.get('failure_reason') or ''}".strip()
    return name if len(name) <= 24 else name[:23] + "…"


def _clock(event: Json, index: int) -> float | None:
    told = event.get("clock")
    return None if not told else told[index] / 1e6


def _marks(event: Json, against: bool) -> tuple[str, ...]:
    marks = []
    if against:
        marks.append("against the clocks")
    if event.get("late"):
        marks.append("came late")
    return tuple(marks)
