"""A backlog of ordinary calls, as readers would have left it in the event topic.

Owns what the calls look like: five rows on two of three servers (nine of ten answered, one busy),
header values of ordinary length, one probe stamped per server, heartbeats in band. A function of
the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from callstate.envelope import (
    EVENT,
    HEARTBEAT,
    KIND_HEADER,
    SERVER_HEADER,
    event_message,
    heartbeat_message,
)
from callstate.events import Clock, format_time, parse_time_us

SERVERS: Final = ("a", "b", "c")
CLOCKS: Final = {
    "a": Clock(False, 1_200, 0),
    "b": Clock(False, 1_500, -35_000),
    "c": Clock(False, 900, 412_000),
}
START_US: Final = parse_time_us("2024-03-04T09:00:00Z")
EVENTS_A_CALL: Final = 4.9
_LSN: Final = "0/16B3748"


class LogRecord(NamedTuple):
    """One record; heartbeats go to every partition (`key` is the server's name)."""

    at_us: int
    kind: str
    server: str
    key: bytes
    value: bytes

    @property
    def headers(self) -> list[tuple[str, str | bytes | None]]:
        """As a reader writes them."""
        return [(KIND_HEADER, self.kind.encode()), (SERVER_HEADER, self.server.encode())]


def backlog(
    calls: int, *, calls_a_second: float = 200.0, seed: int = 1, ended: bool = True
) -> Iterator[LogRecord]:
    """Records in the order of their times, heartbeats once a second; no call ends if not `ended`.

    Behind the last event heartbeats go on until every call is final.
    """
    rng = random.Random(seed)  # noqa: S311  traffic, no secret
    waiting: list[tuple[int, int, str, dict[str, Any]]] = []
    beat_us, number = START_US, 0
    for call in range(calls):
        at_us = START_US + round(call / calls_a_second * 1_000_000)
        for offset_us, server, row in _call(call, at_us, rng, ended=ended):
            number += 1
            heapq.heappush(waiting, (at_us + offset_us, number, server, row))
        while waiting and waiting[0][0] <= at_us:
            while beat_us <= waiting[0][0]:
                yield from beats(beat_us)
                beat_us += 1_000_000
            yield _event(*heapq.heappop(waiting))
    while waiting:
        while beat_us <= waiting[0][0]:
            yield from beats(beat_us)
            beat_us += 1_000_000
        yield _event(*heapq.heappop(waiting))
    for _ in range(200 if ended else 1):
        yield from beats(beat_us)
        beat_us += 1_000_000


def beats(at_us: int) -> Iterator[LogRecord]:
    """A heartbeat of every server: nothing older than `at_us` (reference time) is to come."""
    for server in SERVERS:
        clock = CLOCKS[server]
        message = heartbeat_message(server, at_us + clock.offset_us, _LSN, clock)
        yield LogRecord(at_us, HEARTBEAT, server, server.encode(), orjson.dumps(message))


def _event(at_us: int, number: int, server: str, row: dict[str, Any]) -> LogRecord:
    row["id"] = number
    clock = CLOCKS[server]
    row["event_time"] = format_time(at_us + clock.offset_us)[:-4].replace("T", " ")
    message = event_message(server, _LSN, format_time(at_us), clock, row)
    return LogRecord(at_us, EVENT, server, row["call_id"].encode(), orjson.dumps(message))


def _call(
    number: int, at_us: int, rng: random.Random, *, ended: bool
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Microseconds after the start, server, row."""
    one, two = rng.sample(SERVERS, 2)
    caller, callee = 200 + number % 3_000, 200 + number * 7 % 3_000
    from_tag, to_tag = f"{rng.getrandbits(40):010x}", f"{rng.getrandbits(40):010x}"
    to_url = f"<sip:{callee}@example.com>"
    base: dict[str, Any] = {
        "id": 0,
        "event_seq": number * 3,
        "event_time": "",
        "cseq": 1,
        "call_id": f"{rng.getrandbits(64):016x}-{number}@10.1.{number % 250}.{number % 31}",
        "from_tag": from_tag,
        "to_tag": to_tag,
        "from_url": f'"User {caller}" <sip:{caller}@example.com>;tag={from_tag}',
        "to_url": f"{to_url};tag={to_tag}",
        **dict.fromkeys(("contact", "refer_to", "referred_by", "failure_reason"), ""),
        **dict.fromkeys(("request_uri", "reference", "callee_route"), ""),
        "failure_status": 0,
        "caller_internal": None,
    }
    outer, inner = (
        {
            "observer": f"10.1.1.{ord(server)}:5060",
            "branch_id": f"z9hG4bK-sipXecs-{rng.getrandbits(64):016x}",
            "via_count": via_count,
        }
        for via_count, server in enumerate((one, two), 1)
    )
    request = {
        "event_type": "R",
        "to_url": to_url,
        "to_tag": "",
        "contact": f"<sip:{caller}@10.2.{caller % 200}.7:5060>",
        "caller_internal": True,
    }
    yield 0, one, {**base, **outer, **request}
    yield 4_000, two, {**base, **inner, **request}
    ring_us = round(rng.uniform(2, 10) * 1_000_000)
    if number % 10 == 9:
        answer = {"event_type": "F", "failure_status": 486, "failure_reason": "Busy Here"}
    else:
        contact = f"<sip:{callee}@10.2.{callee % 200}.9:5060;line=1>"
        answer = {"event_type": "S", "contact": contact}
    yield ring_us, two, {**base, **inner, **answer}
    yield ring_us + 4_000, one, {**base, **outer, **answer}
    if answer["event_type"] == "S" and ended:
        end = {"event_type": "E", "cseq": 2, "branch_id": "", "via_count": 0}
        yield ring_us + round(rng.uniform(5, 120) * 1_000_000), one, {**base, **outer, **end}
