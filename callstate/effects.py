"""What the processor asks the edge to do: values, performed elsewhere.

Every effect is idempotent at the edge: the same effect twice changes nothing the second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from callstate.cdr import Cdr, Provenance
from callstate.exchanges import Exchange


class EmitCdr(NamedTuple):
    """Write this CDR; a lower revision never overwrites a higher one."""

    cdr: Cdr
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class HideCall:
    """This call has no CDR (music on hold, chained leg): remove one that was written earlier.

    With `unknown` there is none yet: nobody knows who called. It is told so that what comes days
    later finds what was known; each of its events is a `DeadLetter`, too.
    """

    call_id: str
    reason: str
    provenance: Provenance
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that no CDR can be made of, whole, with its reason."""

    reason: str
    server: str
    raw: Any
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class RecordLate:
    """An event came after its call was closed; a new revision of the CDR follows."""

    call_id: str
    server: str
    late_us: int


@dataclass(frozen=True, slots=True)
class SkewObserved:
    """A server's clock is off by more than the warning threshold, or no longer is."""

    server: str
    offset_us: int
    error_us: int
    source: str
    off: bool


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """A server's clock was set by `jump_us` at about `at_us` (the reference's time)."""

    server: str
    at_us: int
    jump_us: int
    source: str


@dataclass(frozen=True, slots=True)
class ClocksDisagree:
    """Probe and traffic measure a server's clock differently, beyond both errors."""

    server: str
    probe_us: int
    probe_error_us: int
    traffic_us: int
    traffic_error_us: int


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """Whether the watermark waits for a server: `active`, `set_aside` (silent), `untrusted`."""

    server: str
    state: str
    frontier_us: int | None


@dataclass(frozen=True, slots=True)
class AskReference:
    """Ask the partition of `referenced` whether it holds a request or setup of that call."""

    referenced: str
    asker: str


@dataclass(frozen=True, slots=True)
class AnswerReference:
    """Tell the partition of `asker` that `referenced` is known."""

    asker: str
    referenced: str


@dataclass(frozen=True, slots=True)
class ShareExchange:
    """Tell every partition what a call showed of two servers' clocks."""

    exchange: Exchange


Effect = (
    EmitCdr
    | HideCall
    | DeadLetter
    | RecordLate
    | SkewObserved
    | ClockStepped
    | ClocksDisagree
    | SourceChanged
    | AskReference
    | AnswerReference
    | ShareExchange
)
