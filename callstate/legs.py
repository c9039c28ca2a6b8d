"""The legs of a call: its dialogs, what each says of itself, and which one is the call.

Owns the grouping of events by unordered pair of tags (RFC 3261 section 12), the first answer and
the first end of each, and the ranking by which one wins.
"""

from __future__ import annotations

from callstate.cdr import COMPLETED, FAILED, TRANSFERRED, UNKNOWN
from callstate.events import CallEvent
from callstate.timed import ByType, Timed

_ENDS_DIALOG = (408, 481)


class Leg:
    """One dialog: an unordered pair of tags (RFC 3261 section 12).

    `setup` is its first answer, `end` its first BYE, `failure` what ended it without one.
    """

    __slots__ = (
        "callee_tag",
        "end",
        "ends",
        "failure",
        "failures",
        "setup",
        "setups",
        "tags",
        "transfers",
    )

    def __init__(self, tags: frozenset[str], callee_tag: str) -> None:
        self.tags = tags
        self.callee_tag = callee_tag
        self.setups: list[Timed] = []
        self.ends: list[Timed] = []
        self.transfers: list[Timed] = []
        self.failures: list[Timed] = []
        self.setup: Timed | None = None
        self.end: Timed | None = None
        self.failure: Timed | None = None

    @property
    def termination(self) -> str:
        """How this dialog ended, as in column `termination`."""
        if self.end is not None:
            return TRANSFERRED if self.transfers else COMPLETED
        return FAILED if self.failure is not None else UNKNOWN

    @property
    def ended_us(self) -> int | None:
        """Time of the end or of the failure that ended the dialog."""
        over = self.end or self.failure
        return None if over is None else over.time_us

    def rank(self) -> tuple[object, ...]:
        """The best leg has the least rank."""
        connect, ended = self.setup and self.setup.time_us, self.ended_us
        whole = connect is not None and ended is not None
        length = max(0, ended - connect) if connect is not None and ended is not None else 0
        return (
            not whole,
            connect is None,
            self.end is None,
            -length,
            connect if connect is not None else ended or 0,
            self.callee_tag,
        )


def legs_of(parts: ByType, caller_tag: str) -> list[Leg]:
    """The caller's dialogs; where none of those was ever set up, all dialogs."""
    legs: dict[frozenset[str], Leg] = {}

    def leg_of(event: CallEvent) -> Leg:
        from_tag, to_tag = event.from_tag, event.to_tag
        tags = frozenset((from_tag, to_tag))
        leg = legs.get(tags)
        if leg is None:
            callee = to_tag if to_tag != caller_tag else from_tag if from_tag != caller_tag else ""
            leg = legs[tags] = Leg(tags, callee)
        return leg

    for item in parts.setups:
        leg_of(item.event).setups.append(item)
    for item in parts.ends:
        leg_of(item.event).ends.append(item)
    for item in parts.transfers:
        leg_of(item.event).transfers.append(item)
    for item in parts.failures:
        if item.event.failure_status in _ENDS_DIALOG:
            leg = legs.get(frozenset((item.event.from_tag, item.event.to_tag)))
            if leg is not None:
                leg.failures.append(item)
    for leg in legs.values():
        _settle(leg, caller_tag)
    own = [leg for leg in legs.values() if caller_tag in leg.tags]
    return own if any(leg.setup or leg.end for leg in own) else list(legs.values())


def _settle(leg: Leg, caller_tag: str) -> None:
    """First setup, first end and the failure that ended the dialog."""
    if len(leg.setups) == 1:
        leg.setup = leg.setups[0]
    elif leg.setups:
        # The answer to the first INVITE goes backwards through the proxies: the innermost saw it
        # first. Answers to re-INVITEs of either side come later than that.
        leg.setup = min(
            leg.setups,
            key=lambda item: (
                item.event.from_tag != caller_tag,
                item.event.cseq,
                -item.event.via_count,
                item.time_us,
            ),
        )
    if leg.ends:
        leg.end = leg.ends[0]
    elif leg.setup is not None:
        leg.failure = next((item for item in leg.failures if _is_after(item, leg.setup)), None)


def _is_after(failure: Timed, setup: Timed) -> bool:
    """A failure of the dialog itself: of a later transaction, or later where CSeq cannot tell."""
    if failure.event.from_tag == setup.event.from_tag:
        if failure.event.cseq != setup.event.cseq:
            return failure.event.cseq > setup.event.cseq
        return failure.time_us > setup.time_us
    return True
