"""What a check is, what it finds, and how many are run at once with causes before effects.

Owns the time limit, the order and the verdict. Refuses to know what is checked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Final

from ops.failures import describe

TIME_LIMIT_SECONDS: Final = 3.0
# libpq's least connection timeout is 2 s; what it cannot interrupt (name resolution) is cut here.
_GRACE_SECONDS: Final = 1.0


class Outcome(StrEnum):
    """How a check came out, the mild ones first."""

    OK = "ok"
    SKIP = "skip"
    WARN = "warn"
    FAIL = "FAIL"


_SEVERITY: Final = {Outcome.OK: 0, Outcome.SKIP: 1, Outcome.WARN: 2, Outcome.FAIL: 3}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        outcome: How it is.
        found: What was read.
        needed: What is needed; empty where it is in order.
        advice: What to type or change; empty where it is in order.
    """

    outcome: Outcome
    found: str
    needed: str = ""
    advice: str = ""


def ok(found: str) -> Finding:
    """In order."""
    return Finding(Outcome.OK, found)


def warn(found: str, needed: str = "", advice: str = "") -> Finding:
    """Works, but somebody should look."""
    return Finding(Outcome.WARN, found, needed, advice)


def fail(found: str, needed: str = "", advice: str = "") -> Finding:
    """Cannot work."""
    return Finding(Outcome.FAIL, found, needed, advice)


def cannot_tell(what: str, advice: str = "") -> Finding:
    """Nobody let us look, which is not the same as being in order."""
    return Finding(Outcome.WARN, f"cannot tell: {what}", "", advice)


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at.

    Attributes:
        group: What it belongs to, as in `server a`.
        name: What it is called within its group.
        run: Looks and says what it found; an exception is a FAIL with its message.
        needs: Keys of the checks without which it makes no sense.
    """

    group: str
    name: str
    run: Callable[[], Sequence[Finding]]
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """How other checks name this one."""
        return f"{self.group}/{self.name}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A check with what it found."""

    check: Check
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of its findings."""
        return worst(finding.outcome for finding in self.findings)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of them; nothing at all is in order."""
    return max(outcomes, key=_SEVERITY.__getitem__, default=Outcome.OK)


def run_all(
    checks: Sequence[Check], time_limit_seconds: float = TIME_LIMIT_SECONDS
) -> list[Checked]:
    """Runs all checks side by side, each when what it needs has come out well.

    Args:
        checks: Every check after those it needs.
        time_limit_seconds: For one check; what takes longer is a FAIL.

    Returns:
        The findings in the order of `checks`.
    """
    futures: dict[str, Future[Checked]] = {}
    for check in checks:
        future: Future[Checked] = Future()
        before = [futures[need] for need in check.needs if need in futures]
        futures[check.key] = future
        # Daemons: a check that hangs in a library must not keep the process from ending.
        threading.Thread(
            target=_settle,
            args=(check, before, future, time_limit_seconds),
            name=f"doctor {check.key}",
            daemon=True,
        ).start()
    return [future.result() for future in futures.values()]


def _settle(
    check: Check, before: list[Future[Checked]], future: Future[Checked], limit_seconds: float
) -> None:
    for needed in before:
        result = needed.result()
        if result.outcome in (Outcome.FAIL, Outcome.SKIP):
            skip = Finding(Outcome.SKIP, f"needs {result.check.key}")
            future.set_result(Checked(check, (skip,)))
            return
    future.set_result(Checked(check, tuple(_within(check, limit_seconds))))


def _within(check: Check, limit_seconds: float) -> Sequence[Finding]:
    found: Future[Sequence[Finding]] = Future()
    threading.Thread(target=_look, args=(check, found), name=check.key, daemon=True).start()
    began = monotonic()
    try:
        return found.result(limit_seconds + _GRACE_SECONDS)
    except FutureTimeoutError:
        return [fail(f"no answer within {monotonic() - began:.0f} s", "", "is it reachable?")]


def _look(check: Check, found: Future[Sequence[Finding]]) -> None:
    try:
        found.set_result(check.run())
    except Exception as error:  # noqa: BLE001  whatever a check meets is its finding
        failure = describe(error)
        found.set_result([fail(failure.message, "", failure.advice)])
