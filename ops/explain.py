"""Why a CDR says what it says, as a page of 80 columns.

Owns the words and the layout, made from a CDR and its provenance and nothing else: pure functions,
used on the database's rows and on files alike. Refuses to read either.

Header text is hostile: it is put into `rich.Text`, never into markup, and escaped by `ops.visible`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ops.visible import cut, padded, wrapped

if TYPE_CHECKING:
    from rich.text import Text

WIDTH: Final = 80
JSON_VERSION: Final = 1
OUTCOMES: Final = {
    "C": "completed",
    "T": "transferred",
    "A": "abandoned by the caller",
    "F": "failed",
    "U": "unknown: its end was never seen",
}
MESSAGES: Final = {"R": "INVITE", "S": "2xx", "F": "fail", "T": "REFER", "E": "BYE"}
MISSING: Final = {
    "start": "No request was seen: the start is taken from the answer.",
    "setup": "No answer was seen: the call has no connect time.",
    "end": "No end was seen.",
}
_SOURCES: Final = {
    "probe": "measured over SQL",
    "traffic": "measured from the calls themselves",
    "none": "not measured",
}

_AGAINST: Final = "against the clocks"

Json = Mapping[str, Any]


class Explained(NamedTuple):
    """What is known of one call: arguments of `render`."""

    provenance: dict[str, Any]
    cdr: dict[str, Any] | None
    hidden: str


def as_object(provenance: Json, cdr: Json | None, hidden: str = "") -> dict[str, Any]:
    """The same content for programs."""
    return {
        "v": JSON_VERSION,
        "call_id": provenance["call_id"],
        "cdr": None if cdr is None else dict(cdr),
        "hidden": hidden or None,
        "why": why(provenance, cdr, hidden),
        "provenance": dict(provenance),
    }


def render(provenance: Json, cdr: Json | None, hidden: str = "", width: int = WIDTH) -> list[Text]:
    """The page, a `Text` a line, no line wider than `width`.

    Args:
        provenance: What `callstate.cdr.Provenance.to_json` made.
        cdr: The CDR's columns; times as ISO 8601 text or datetimes. None where there is no CDR.
        hidden: Why the call has no CDR though it is known, `""` where it has one.
        width: Columns.
    """
    lines = [*_head(provenance, cdr, hidden, width)]
    lines += ["", "Why"]
    for sentence in why(provenance, cdr, hidden):
        lines += wrapped(sentence, width, "  - ", "    ")
    lines += ["", "Events in resolved order (times in UTC)", *_events(provenance, width)]
    lines += ["", "Clocks", *_offsets(provenance, width)]
    if provenance.get("legs"):
        lines += ["", "Legs, the winner first", *_legs(provenance["legs"], width)]
    from rich.text import Text  # noqa: PLC0415  pages of the dashboard need the words alone

    return [Text(line.rstrip(), no_wrap=True, end="") for line in lines]


def why(provenance: Json, cdr: Json | None, hidden: str = "") -> list[str]:
    """The reasons, one sentence each, the deciding one first."""
    return list(_reasons(provenance, cdr, hidden))


def _reasons(provenance: Json, cdr: Json | None, hidden: str) -> Iterator[str]:
    if hidden:
        yield f"No CDR is written: {hidden}."
    elif cdr is None:
        yield "No CDR is written: without a request or an answer nobody knows who called."
    watermark = provenance.get("watermark")
    until = (
        f"when every server had told all up to {_moment(watermark)}"
        if watermark
        else ("at the end of the input")
    )
    rule = str(provenance.get("rule") or "no rule").partition("; hidden: ")[0]
    yield f"Closed by: {rule}; {until}."
    legs = provenance.get("legs") or ()
    if len(legs) > 1:
        yield f"Of {len(legs)} legs the first one below won; each other says why it lost."
    yield from _clock_reasons(provenance)
    for part in provenance.get("missing") or ():
        yield MISSING.get(part, f"Missing: {part}.")
    if not provenance.get("missing"):
        yield "Nothing is missing."
    late = provenance.get("late_events") or 0
    if late:
        yield f"{_count(late, 'event')} came after the call had been closed: a new revision."
    dropped = provenance.get("events_dropped") or 0
    if dropped:
        yield f"{_count(dropped, 'event')} beyond the bound on a call's events are counted only."
    if provenance.get("suspect"):
        yield "Suspect: a gap in a server's log may have swallowed events of this call."
    yield from (
        f"{str(note)[:1].upper()}{str(note)[1:]}." for note in provenance.get("notes") or ()
    )


def _clock_reasons(provenance: Json) -> Iterator[str]:
    for offset in provenance.get("offsets") or ():
        if offset.get("applied") and offset.get("offset_us"):
            by = _signed(-offset["offset_us"])
            yield (
                f"The times of server {offset['server']} were moved by {by}"
                f"{_error(offset)}: its clock's offset, {_source(offset)}."
            )
    pairs = provenance.get("inversions") or ()
    if pairs and not any(_AGAINST in str(note) for note in provenance.get("notes") or ()):
        shown = ", ".join(f"{first + 1} and {second + 1}" for first, second in pairs[:3])
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        yield (
            f"CSeq and the SIP lifecycle order {_count(len(pairs), 'pair')} of events against the "
            f"clocks: {shown}{more}."
        )


def _head(provenance: Json, cdr: Json | None, hidden: str, width: int) -> Iterator[str]:
    revision = f"revision {provenance.get('revision', '?')}"
    room = width - len(revision) - 2
    yield padded(f"Call {provenance['call_id']}", room) + "  " + revision
    if cdr is None:
        yield f"  no CDR{': ' + cut(hidden, width - 12) if hidden else ''}"
        return
    yield f"  from     {cut(str(cdr.get('caller_aor') or '-'), width - 11)}"
    yield f"  to       {cut(str(cdr.get('callee_aor') or '-'), width - 11)}"
    start, connect, end = (cdr.get(f"{part}_time") for part in ("start", "connect", "end"))
    yield f"  start    {_moment(start)}"
    yield f"  connect  {_moment(connect)}{_after(start, connect, 'after the start')}"
    yield f"  end      {_moment(end)}{_after(connect or start, end, 'long')}"
    outcome = str(cdr.get("termination") or "?")
    failure = ""
    if cdr.get("failure_status"):
        failure = f": {cdr['failure_status']} {cdr.get('failure_reason') or ''}"
    yield cut(f"  outcome  {outcome} {OUTCOMES.get(outcome, '')}{failure}", width)


def _events(provenance: Json, width: int) -> Iterator[str]:
    yield "   #  message  server    observer         cseq via  corrected     raw"
    against = {index for pair in provenance.get("inversions") or () for index in pair}
    for index, event in enumerate(provenance.get("events") or ()):
        yield cut(_event_line(index, event), width)
        remarks = []
        if event.get("failure_status"):
            remarks.append(f"{event['failure_status']} {event.get('failure_reason') or ''}".strip())
        if event.get("late"):
            remarks.append("late")
        if index in against:
            remarks.append(_AGAINST)
        if remarks:
            yield cut("      " + ", ".join(remarks), width)


def _event_line(index: int, event: Json) -> str:
    kind = str(event.get("event_type") or event.get("type") or "?")
    message = f"{kind} {MESSAGES.get(kind, '')}"
    raw = event.get("raw_time") or event.get("event_time")
    cseq = str(event.get("cseq", 0))
    room = 22 - max(4, len(cseq))  # a long CSeq takes its room from the observer, never from times
    return (
        f"{index + 1:>4}  {padded(message, 8)} {padded(str(event.get('server', '?')), 9)} "
        f"{padded(str(event.get('observer') or '-'), max(3, room - 2))} {cseq:>4} "
        f"{event.get('via_count') or '-'!s:>3}  {_clock(event.get('time') or raw)}  {_clock(raw)}"
    )


def _offsets(provenance: Json, width: int) -> Iterator[str]:
    offsets = provenance.get("offsets") or ()
    if not offsets:
        yield "  no offset is known; times are as the servers wrote them"
    for offset in offsets:
        name = padded(str(offset["server"]), 10)
        if offset.get("source") == "none":
            yield f"  {name} not measured; times are as it wrote them"
            continue
        if not offset["offset_us"] and not offset.get("error_us"):
            yield f"  {name} the reference: its clock is the time of this call"
            continue
        done = "applied" if offset.get("applied") else "not applied"
        text = f"{_signed(offset['offset_us'])}{_error(offset)}, {_source(offset)}, {done}"
        yield cut(f"  {name} {text}", width)


def _legs(legs: Sequence[Json], width: int) -> Iterator[str]:
    for number, leg in enumerate(legs, start=1):
        outcome = str(leg.get("termination") or "?")
        connect, end = leg.get("connect_time"), leg.get("end_time")
        talked = _after(connect, end, "long").strip() or "length unknown"
        text = (
            f"to tag {padded(str(leg.get('to_tag') or '-'), 20)} "
            f"{_clock(connect)} to {_clock(end)}, {talked}, {outcome}"
        )
        yield cut(f"  {number}  {text}", width)
        yield cut(f"     {leg.get('verdict') or ''}", width)


def _source(offset: Json) -> str:
    return _SOURCES.get(str(offset.get("source")), str(offset.get("source")))


def _error(offset: Json) -> str:
    error_us = offset.get("error_us")
    return "" if error_us is None else f" +- {error_us / 1e6:.3f} s"


def _signed(us: int) -> str:
    return f"{us / 1e6:+.3f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _parsed(moment: Any) -> datetime | None:
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if not isinstance(moment, datetime):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _moment(moment: Any) -> str:
    parsed = _parsed(moment)
    return f"{parsed:%Y-%m-%d} {_clock(parsed)}" if parsed else "-"


def _clock(moment: Any) -> str:
    parsed = _parsed(moment)
    return parsed.strftime("%H:%M:%S.%f")[:-3] if parsed else "-"


def _after(earlier: Any, later: Any, words: str) -> str:
    before, after = _parsed(earlier), _parsed(later)
    if before is None or after is None:
        return ""
    return f"   {(after - before).total_seconds():.3f} s {words}"
