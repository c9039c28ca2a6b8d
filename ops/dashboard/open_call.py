"""A call that has no CDR yet: its events as Kafka holds them, and what it waits for.

Owns the looking: one partition of the event topic, its newest records and, of a call in progress,
those from when it began and was answered; bounded in records and time. What the events would give
if nothing more came is resolved by the same processor as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from callstate.config import ResolutionConfig
from callstate.effects import DeadLetter, EmitCdr, HideCall
from callstate.events import CallEvent
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from ops.dashboard.scan import Found, scan
from ops.monitor.facts import Json
from ops.monitor.watched import Broker
from ops.monitor.words import clock, duration
from stream_app.records import read_record


@dataclass(frozen=True, slots=True)
class OpenCall:
    """What was found; `provenance` is what would be told if nothing more came.

    Attributes:
        partition: Where its events are.
        looked_back: How many records were looked through.
        events: How many of them are the call's.
        waits: Sentences: what it waits for, and who holds that up.
        around: Whether it was also looked at when it began and was answered.
        newest_unread: How many of the newest records were not looked at, for want of time.
        around_unread: How many of those from when it began and was answered.
    """

    partition: int
    looked_back: int
    whole: bool
    events: int
    provenance: dict[str, Any] | None
    cdr: dict[str, Any] | None
    waits: tuple[str, ...]
    around: bool
    newest_unread: int
    around_unread: int


def look(
    broker: Broker,
    rules: ResolutionConfig,
    call_id: str,
    picture: Json,
    moments: Sequence[float] = (),
) -> OpenCall:
    """Looks for the call's records in its partition. Blocks for a few seconds at most.

    Args:
        broker: Kafka.
        rules: By which it is resolved.
        call_id: Its Call-ID.
        picture: Of the system: who holds its partition up.
        moments: When it began and was answered, where that is known.

    Raises:
        KafkaException: The broker does not answer.
    """
    told = scan(broker, broker.events_topic, call_id, moments)
    found = _events(told.found)
    provenance, cdr, letter = _resolved(found, rules)
    waits = _waits(found, provenance, cdr, letter, rules, picture, told.partition)
    if found and told.newest_unread + told.around_unread:
        waits = ("Not all records were read in time: this is by those that were.", *waits)
    return OpenCall(
        told.partition,
        told.looked,
        told.whole,
        len(found),
        provenance,
        cdr,
        waits,
        around=told.around,
        newest_unread=told.newest_unread,
        around_unread=told.around_unread,
    )


def _events(found: Iterable[Found]) -> list[CallEvent]:
    """The call's distinct events."""
    events: dict[tuple[str, int | None, int], CallEvent] = {}
    for record in found:
        event = read_record(record)
        if isinstance(event, CallEvent):
            events[event.server, event.id, event.event_seq] = event
    return list(events.values())


def _resolved(
    events: list[CallEvent], rules: ResolutionConfig
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, str]:
    if not events:
        return None, None, ""
    processor = PartitionProcessor(replace(rules, servers=()), DictStore(), live=False)
    processor.feed(events)
    letter = ""
    for effect in processor.finish():
        if isinstance(effect, EmitCdr):
            return effect.provenance.to_json(), effect.cdr.columns(), ""
        if isinstance(effect, HideCall):
            return effect.provenance.to_json(), None, effect.reason
        if isinstance(effect, DeadLetter):
            letter = effect.reason
    return None, None, letter


def _until(since: Any, wait: float, then: str) -> str:
    """The end of a sentence about a limit; a limit of 0 is off."""
    if wait <= 0:
        return "; no limit is set."
    at = datetime.fromisoformat(str(since)).timestamp() + wait
    return f"; when the watermark passes {clock(at)} UTC ({duration(wait)}), {then}."


def _waits(
    events: list[CallEvent],
    provenance: Json | None,
    cdr: Json | None,
    letter: str,
    rules: ResolutionConfig,
    picture: Json,
    number: int,
) -> tuple[str, ...]:
    if not events:
        return ()
    if cdr is None:
        reason = letter or "the rules hide it"
        return (f"No CDR would be written: {reason}.",)
    sentences = []
    ended, connected = cdr.get("end_time"), cdr.get("connect_time")
    last = max(str(event["time"]) for event in (provenance or {}).get("events", ()))
    if ended:
        sentences.append("It has ended; it becomes a CDR when the watermark passes its end.")
        wait = 0.0 if cdr["termination"] in ("C", "T") else rules.failed_wait_seconds
        if wait > 0:
            sentences.append(f"A failure waits {duration(wait)} for another try.")
    elif connected:
        wait = rules.max_call_seconds
        sentences.append(
            "It is answered and has no end yet: it waits for a BYE"
            + _until(connected, wait, "it is closed as unknown")
        )
    else:
        wait = rules.max_ringing_seconds
        sentences.append(
            "It has no answer yet: it may ring" + _until(last, wait, "it is closed as failed")
        )
    part = next((one for one in picture["partitions"] if one["number"] == number), None)
    if part is not None:
        at = part["watermark"]
        sentences.append(
            f"The watermark of its partition ({number}) is at {clock(at)} UTC,"
            f" {duration(part['lag'])} ago; its last event was at {last[11:19]} UTC."
        )
        if part["why"] != "up to date":
            sentences.append(f"Its partition: {part['why']}.")
    return tuple(sentences)
