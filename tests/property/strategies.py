"""Calls as chance makes them: some as proxies would write them, some that no proxy ever would.

Owns what is drawn. All alphabets are small, so that tags, branches, times and servers meet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from callstate.envelope import Gap, Heartbeat, Malformed, Record, ReferenceAsked, ReferenceKnown
from callstate.events import CallEvent, Clock
from tests.calls import DAY_US, US, us

SERVERS = ("p", "q", "r")
CALLS = ("one", "two", "three")
TAGS = ("", "a", "b", "c")
HORIZON = 40_000  # seconds within which drawn events lie, longer than any limit

offsets = st.sampled_from((0, 1, -700, 5_500, -90_000)).map(lambda ms: ms * 1_000)
errors = st.integers(0, 2_000).map(lambda ms: ms * 1_000)
probes = st.builds(Clock, st.just(value=False), errors, offsets)
clocks = st.one_of(st.none(), st.builds(Clock, st.booleans(), errors, offsets))
seconds = st.one_of(
    st.sampled_from((0.0, 0.5, 1.0, 5.0, 60.0, 119.0, 121.0, 300.0, 29_000.0)),
    st.integers(0, 200).map(float),
    st.integers(0, HORIZON).map(float),
)
references = st.sampled_from(
    ("", "", "", "one;rel=chain", "two;rel=chain,nobody;rel=chain", "three ;rel=chain,x;rel=refer")
)


@st.composite
def rows(draw: st.DrawFn, calls: tuple[str, ...] = CALLS) -> CallEvent:
    """Any event; its id is given later."""
    kind = draw(st.sampled_from("RRSSFTEE"))
    back = draw(st.booleans())
    tags = (draw(st.sampled_from(TAGS)), draw(st.sampled_from(TAGS)))
    contact = draw(st.sampled_from(("", "<sip:m@h;p>", "sip:n@h")))
    return CallEvent(
        server=draw(st.sampled_from(SERVERS)),
        id=None,
        observer="o",
        event_seq=draw(st.integers(0, 3)),
        time_us=us(draw(seconds)),
        type=kind,
        cseq=draw(st.sampled_from((0, 1, 1, 2, 3, 2**31 - 2, -4))),
        call_id=draw(st.sampled_from(calls)),
        from_tag=tags[back],
        to_tag=draw(st.sampled_from(("", tags[not back]))) if kind == "R" else tags[not back],
        from_url=draw(st.sampled_from(("<sip:m@h>;tag=a", 'x"<<;tag', ""))),
        to_url=draw(st.sampled_from(("<sip:n@h>", "<sip:~~mh~1@h>", "\x00;tag="))),
        contact=contact if kind in "RST" else "",
        refer_to="",
        referred_by="",
        failure_status=draw(st.sampled_from((0, 401, 408, 481, 486, 487))) if kind == "F" else 0,
        failure_reason=draw(st.sampled_from(("", "why"))) if kind == "F" else "",
        request_uri="",
        reference=draw(references) if kind in "RS" else "",
        caller_internal=draw(st.sampled_from((None, True, False))) if kind == "R" else None,
        callee_route=draw(st.sampled_from(("", "route"))) if kind == "S" else "",
        branch_id=draw(st.sampled_from(("", "z1", "z2"))) if kind in "RSF" else "",
        via_count=draw(st.sampled_from((0, 1, 1, 2, 3, -1))) if kind in "RSF" else 0,
    )


@st.composite
def plausible_call(draw: st.DrawFn, call_id: str = "one") -> list[CallEvent]:
    """A call as proxies write it, perhaps with parts lost, over one or two servers."""
    from tests.calls import events, row

    path = draw(st.sampled_from((("p",), ("p", "q"), ("q", "r"))))
    ring, talk = draw(st.sampled_from((0.0, 5.0, 130.0))), draw(st.sampled_from((0.0, 60.0, 7e3)))
    by_callee = draw(st.booleans())
    told: list[dict[str, Any]] = []
    for depth, server in enumerate(path):
        hop: dict[str, Any] = {
            "server": server,
            "call_id": call_id,
            "via_count": 2 * depth + 1,
            "branch_id": f"z{depth}",
        }
        told.append(row("R", depth / 100, reference=draw(references), **hop))
        ending = draw(st.sampled_from("SSSFn"))
        if ending == "F":
            told.append(
                row("F", ring, failure_status=draw(st.sampled_from((401, 486, 487))), **hop)
            )
        elif ending == "S":
            told.append(row("S", ring, **hop))
        bye = {"server": server, "call_id": call_id, "by_callee": by_callee}
        if draw(st.integers(0, 4)) == 0:
            told.append(row("T", ring + talk - 1, cseq=2, **bye))
        if draw(st.integers(0, 5)):
            told.append(row("E", ring + talk, cseq=3, **bye))
        if draw(st.integers(0, 5)) == 0:
            told.append(row("S", ring + talk / 2, cseq=2, callee="c", **hop))
    lost = draw(st.sets(st.integers(0, len(told) - 1), max_size=2))
    return events(*(row for number, row in enumerate(told) if number not in lost))


@st.composite
def event_sets(
    draw: st.DrawFn, *, least: int = 1, most: int = 12, probed: bool = False
) -> list[CallEvent]:
    """Distinct events of up to three calls, numbered as each server would, a few without an id.

    With `probed` each was read while its server's clock was measured.
    """
    drawn = draw(st.lists(rows(), min_size=least, max_size=most))
    for call_id in draw(st.sampled_from(((), ("one",), ("one", "two")))):
        drawn += draw(plausible_call(call_id))
    numbered: list[CallEvent] = []
    for number, event in enumerate(drawn, 1):
        row_id = None if draw(st.integers(0, 9)) == 0 else number
        stamp = draw(probes if probed else clocks)
        numbered.append(event._replace(id=row_id, clock=stamp))
    return list({event[:-1]: event for event in numbered}.values())


@st.composite
def arrivals(draw: st.DrawFn, of: list[CallEvent]) -> list[CallEvent]:
    """The events in any order, some of them more than once."""
    again = draw(st.lists(st.sampled_from(of), max_size=6))
    return draw(st.permutations([*of, *again]))


@st.composite
def heartbeats(draw: st.DrawFn) -> Heartbeat:
    server = draw(st.sampled_from((*SERVERS, "new")))
    at = draw(st.one_of(seconds, st.sampled_from((-1.7e9, 2.4e9, 0.0))))
    return Heartbeat(server, DAY_US + round(at * US), draw(clocks))


@st.composite
def streams(draw: st.DrawFn) -> list[Record]:
    """A partition's log: events in any order among heartbeats, gaps, references and rubbish."""
    told: list[Record] = list(draw(arrivals(draw(event_sets()))))
    told += draw(st.lists(heartbeats(), max_size=25))
    told += draw(st.lists(others, max_size=3))
    return draw(st.permutations(told))


others: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Gap,
        st.sampled_from(SERVERS),
        st.just("0/1"),
        st.just("0/2"),
        seconds.map(us),
        seconds.map(us),
        st.just("slot lost"),
    ),
    st.builds(ReferenceAsked, st.sampled_from(CALLS), st.sampled_from(CALLS)),
    st.builds(ReferenceKnown, st.sampled_from(CALLS), st.sampled_from(CALLS)),
    st.just(Malformed("why", "p", {"row": None})),
)


@st.composite
def batches(draw: st.DrawFn, of: list[Record]) -> list[list[Record]]:
    """The same records, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(of)), max_size=5)))
    return [of[start:end] for start, end in pairwise([0, *cuts, len(of)])]
