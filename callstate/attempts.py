"""Who called, and how the last attempt was answered.

Owns the finding of the caller's first request and of the one failure that the caller saw: an
attempt is named by the branch of its outermost request (RFC 3261 section 16.6), and failures of
inner branches are the proxies' own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from callstate.timed import ByType, Timed

_time = itemgetter(0)


def starting_reinvites(parts: ByType) -> list[Timed]:
    """Requests with a To tag start a call only if nothing of their direction was set up before."""
    first_cseq: dict[str, int] = {}
    for _, event in parts.setups:
        cseq = first_cseq.get(event.from_tag, event.cseq)
        first_cseq[event.from_tag] = min(cseq, event.cseq)
    return [
        item
        for item in parts.reinvites
        if first_cseq.get(item.event.from_tag, item.event.cseq) >= item.event.cseq
    ]


def first_request(starts: Sequence[Timed]) -> Timed:
    """Lowest CSeq, then lowest via_count; of several callers' tags the earliest."""
    if len(starts) == 1:
        return starts[0]
    firsts: dict[str, Timed] = {}
    for item in starts:
        event = item.event
        held = firsts.get(event.from_tag)
        if held is None or (event.cseq, event.via_count) < (held.event.cseq, held.event.via_count):
            firsts[event.from_tag] = item
    return min(firsts.values(), key=_time)


class Refusal(NamedTuple):
    """The last attempt, and the failure that ended it."""

    request: Timed  # the outermost request of the last attempt
    failure: Timed | None


def last_refusal(starts: Sequence[Timed], failures: Sequence[Timed]) -> Refusal:
    """The last attempt and the final failure that the caller saw of it, if any.

    Only a failure with the branch and via_count of the attempt's outermost request is that one.
    """
    attempts: dict[tuple[str, int], list[Timed]] = {}
    for item in starts:
        attempts.setdefault((item.event.from_tag, item.event.cseq), []).append(item)
    if len(attempts) == 1:
        last = starts
    else:
        began: dict[str, int] = {}
        for item in starts:
            began.setdefault(item.event.from_tag, item.time_us)
        last = attempts[max(attempts, key=lambda key: (began[key[0]], key[0], key[1]))]
    outermost = min(last, key=lambda item: item.event.via_count).event.via_count
    branches = {i.event.branch_id: i for i in last if i.event.via_count == outermost}
    cseq = last[0].event.cseq
    cseqs = {key[1] for key in attempts}
    request = next(iter(branches.values()))
    for item in failures:
        event = item.event
        if event.via_count == outermost and event.branch_id in branches:
            named = event.branch_id or event.cseq == cseq or event.cseq not in cseqs
            if named:
                return Refusal(branches[event.branch_id], item)
    return Refusal(request, None)
