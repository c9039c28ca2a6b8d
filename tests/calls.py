"""Calls written down briefly: what tests say in one line a row of the table.

Owns the shorthand and the ways to drive the domain with it. Refuses to expect anything: tests do.
Times are seconds after `DAY`; a server's clock may be off, then its rows are written with `at` as
that clock shows it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from callstate.clocks import TrafficClocks, correct
from callstate.config import ResolutionConfig
from callstate.effects import Effect, EmitCdr, HideCall
from callstate.envelope import Heartbeat, Record
from callstate.events import CallEvent, Clock, parse_time_us, read_row
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from callstate.references import travelling
from callstate.resolution import Verdict, resolve
from callstate.timed import timed_in_order

DAY = datetime(2024, 3, 4, 9, tzinfo=UTC)
DAY_US = parse_time_us(DAY.isoformat())
US = 1_000_000
DEFAULTS = ResolutionConfig()


def us(seconds: float) -> int:
    """Microseconds since 1970 of a moment in seconds after `DAY`."""
    return DAY_US + round(seconds * US)


def iso(seconds: float) -> str:
    return (DAY + timedelta(seconds=seconds)).isoformat(timespec="microseconds")[:-6] + "Z"


def row(kind: str, at: float, **columns: Any) -> dict[str, Any]:
    """A row of the table with a `server` beside its columns."""
    by_callee = columns.pop("by_callee", False)
    caller, callee = columns.pop("caller", "a"), columns.pop("callee", "b")
    tags = (callee, caller) if by_callee else (caller, callee)
    told: dict[str, Any] = {
        "server": "s",
        "event_time": iso(at),
        "event_type": kind,
        "cseq": 1,
        "call_id": "call",
        "from_tag": tags[0],
        "to_tag": "" if kind == "R" else tags[1],
        "from_url": f"<sip:{tags[0]}@x>;tag={tags[0]}",
        "to_url": f"<sip:{tags[1]}@x>" + ("" if kind == "R" else f";tag={tags[1]}"),
    }
    if kind in "RSF":
        told |= {"branch_id": "z1", "via_count": 1}
    if kind in "RS":
        told["contact"] = f"<sip:{tags[kind == 'S']}@10.0.0.1;p=1>"
    if kind == "F":
        told |= {"failure_status": 486, "failure_reason": "Busy"}
    return told | columns


def events(*rows: dict[str, Any]) -> list[CallEvent]:
    """Rows read, numbered where they have no id."""
    return [
        read_row(told["server"], {"id": number} | told, told.get("clock"))
        for number, told in enumerate(rows, 1)
    ]


def judge(
    *rows: dict[str, Any],
    config: ResolutionConfig = DEFAULTS,
    traffic: TrafficClocks | None = None,
) -> Verdict:
    """The verdict on one call's rows."""
    held = events(*rows)
    corrected = correct(held, traffic, config.time_correction)
    return resolve(timed_in_order(held, corrected.times), config)


def columns(*rows: dict[str, Any], config: ResolutionConfig = DEFAULTS) -> dict[str, Any]:
    """The CDR of one call's rows, as columns."""
    verdict = judge(*rows, config=config)
    assert verdict.cdr is not None, verdict.rule
    return verdict.cdr.columns()


def brief(*rows: dict[str, Any], config: ResolutionConfig = DEFAULTS) -> tuple[Any, ...]:
    """(termination, to_tag, start, connect, end) of one call's rows, times in seconds after DAY."""
    verdict = judge(*rows, config=config)
    assert verdict.cdr is not None, verdict.rule
    cdr = verdict.cdr
    times = (cdr.start_time_us, cdr.connect_time_us, cdr.end_time_us)
    told = (None if time is None else (time - DAY_US) / US for time in times)
    return (cdr.termination, cdr.to_tag, *told)


def beat(server: str, at: float, *, offset: float | None = None, error: float = 0.001) -> Heartbeat:
    """A heartbeat: the server's own clock reads `at`."""
    return Heartbeat(server, us(at), None if offset is None else clock(offset, error))


def clock(offset: float, error: float = 0.001, *, late: bool = False) -> Clock:
    return Clock(late, round(error * US), round(offset * US))


def processor(*servers: str, **config: Any) -> PartitionProcessor:
    return PartitionProcessor(ResolutionConfig(servers=servers, **config), DictStore())


def with_references(door: PartitionProcessor, records: Sequence[Record]) -> list[Effect]:
    """Feeds records and then what they ask of other calls, as if all were in one partition."""
    told: list[Effect] = []
    pending: Sequence[Record] = records
    while pending:
        effects = door.feed(pending)
        told.extend(effects)
        pending = travelling(effects)
    return told


def written(effects: Iterable[Effect]) -> dict[str, dict[str, Any]]:
    """What the sink holds after these effects: the CDRs by call, under its revision guard."""
    revisions: dict[str, int] = {}
    cdrs: dict[str, dict[str, Any]] = {}
    for effect in effects:
        if isinstance(effect, EmitCdr):
            call_id = effect.cdr.call_id
            if effect.provenance.revision >= revisions.get(call_id, 0):
                revisions[call_id] = effect.provenance.revision
                cdrs[call_id] = effect.cdr.columns()
        elif isinstance(effect, HideCall) and effect.provenance.revision >= revisions.get(
            effect.call_id, 0
        ):
            revisions[effect.call_id] = effect.provenance.revision
            cdrs.pop(effect.call_id, None)
    return cdrs


def through_json(told: Any) -> Any:
    return json.loads(json.dumps(told))


def work_of(task: Callable[[], object]) -> int:
    """Function calls that a task makes: unlike its time they do not depend on the machine."""
    calls = 0

    def count_call(_frame: object, what: str, _arg: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        task()
    finally:
        sys.setprofile(None)
    return calls
