"""What should come out of a call: the expected CDR, and whether there is to be one.

Owns the form of `truth.jsonl`. It is stated by the scenario that made the call, never derived from
the rows, so that it cannot repeat a mistake of the rules under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from callstate.events import format_time


class Expect(StrEnum):
    """What the resolver owes to a call."""

    CDR = "cdr"
    HIDDEN = "hidden"  # resolved, but no CDR is written
    NONE = "none"  # nobody knows who called: a dead letter
    UNDEFINED = "undefined"  # anything but harm to other calls


@dataclass(frozen=True, slots=True)
class TrueCdr:
    """The columns of `cdrs`; times are true microseconds since 1970 UTC."""

    call_id: str
    from_tag: str
    to_tag: str
    caller_aor: str
    callee_aor: str
    start_us: int
    connect_us: int | None
    end_us: int | None
    termination: str
    failure_status: int | None = None
    failure_reason: str | None = None
    reference: str = ""
    caller_contact: str | None = None
    callee_contact: str | None = None
    caller_internal: bool | None = None
    callee_route: str | None = None

    def columns(self, reference_us: Callable[[int], int]) -> dict[str, Any]:
        """Column to value, times told by the clock that `reference_us` reads."""

        def told(time_us: int | None) -> str | None:
            return None if time_us is None else format_time(reference_us(time_us))

        return {
            "call_id": self.call_id,
            "from_tag": self.from_tag,
            "to_tag": self.to_tag,
            "caller_aor": self.caller_aor,
            "callee_aor": self.callee_aor,
            "start_time": told(self.start_us),
            "connect_time": told(self.connect_us),
            "end_time": told(self.end_us),
            "termination": self.termination,
            "failure_status": self.failure_status,
            "failure_reason": self.failure_reason,
            "call_direction": None,
            "reference": self.reference,
            "caller_contact": self.caller_contact,
            "callee_contact": self.callee_contact,
            "caller_internal": self.caller_internal,
            "callee_route": self.callee_route,
        }


@dataclass(frozen=True, slots=True)
class CallTruth:
    """One line of `truth.jsonl`."""

    call_id: str
    scenario: str
    expect: Expect
    cdr: TrueCdr | None
    why: str = ""
    observers: tuple[str, ...] = ()
    last_us: int = 0  # the call's last row, true time
    events: int = 0

    def line(self, reference_us: Callable[[int], int]) -> dict[str, Any]:
        """The JSON object of this call."""
        return {
            "call_id": self.call_id,
            "scenario": self.scenario,
            "expect": self.expect.value,
            "why": self.why,
            "observers": list(self.observers),
            "cdr": None if self.cdr is None else self.cdr.columns(reference_us),
            "upstream_wrong": [],
        }
