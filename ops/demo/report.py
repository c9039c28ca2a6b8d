"""The last page of the demo: what was right, what was wrong, and what the clocks would have cost.

Owns the tables. Refuses to judge: that is `verdict`.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.demo.plan import TOLERANCE_MS
from ops.demo.verdict import Bill, Outcome
from ops.simulation.score import Judged, Verdict
from ops.visible import visible

_FAULTS_SHOWN: Final = 10
_VALUE_CHARACTERS: Final = 60
_MEANING: Final = (
    (Verdict.RIGHT, f"every column as it happened, times within {TOLERANCE_MS:.0f} ms"),
    (Verdict.WRONG, "a column differs"),
    (Verdict.MISSING, "no CDR"),
    (Verdict.DUPLICATE, "more than one CDR"),
    (Verdict.LEAKED, "a CDR of a call that is to have none (music, chained legs, lone BYE)"),
    (Verdict.INVENTED, "a CDR of a call that never was"),
    (Verdict.FREE, "rightly without a CDR, or headers beyond a defined answer"),
)
_BILLED: Final = (
    "with a duration",
    "off by more than half a second",
    "that end before they begin",
    "without a duration",
    "minutes billed wrongly, in all",
)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Both tables, the faults one by one, and a sentence."""
    _print_verdicts(console, outcome)
    for fault in outcome.score.faults()[:_FAULTS_SHOWN]:
        _print_fault(console, fault)
    _print_bills(console, outcome)
    if outcome.example is not None and outcome.example_seconds is not None:
        true, naive, ours = outcome.example_seconds
        console.print(
            Text(
                f"the worst of them, {outcome.example}: talked {true:.1f} s, read naively "
                f"{naive:.1f} s, in cdrs {ours:.1f} s"
            ),
            soft_wrap=True,
        )


def sentence(outcome: Outcome) -> str:
    """The verdict."""
    score = outcome.score
    faults = len(score.faults())
    right = f"{score.count(Verdict.RIGHT)} of {score.expected} CDRs right"
    if not faults:
        return f"{right}: none wrong, none missing, none twice"
    return f"{right}; {faults} calls are not as they should be"


def _print_verdicts(console: Console, outcome: Outcome) -> None:
    table = Table(
        title=f"{outcome.calls} calls, {outcome.crossed} of them over several servers",
        title_justify="left",
    )
    table.add_column("CDRs")
    table.add_column("calls", justify="right")
    table.add_column("meaning")
    for verdict, meaning in _MEANING:
        table.add_row(verdict.value, str(outcome.score.count(verdict)), meaning)
    console.print(table)


def _print_fault(console: Console, fault: Judged) -> None:
    told = "; ".join(
        f"{column}: expected {_short(want)}, got {_short(got)}"
        for column, (want, got) in fault.wrong.items()
    )
    line = f"  {fault.verdict.value}: {fault.call_id} ({fault.scenario}) {told}"
    console.print(Text(line), soft_wrap=True)


def _print_bills(console: Console, outcome: Outcome) -> None:
    table = Table(title="what these calls would have been billed", title_justify="left")
    table.add_column("answered calls")
    table.add_column("by the clocks as they stand", justify="right")
    table.add_column("in cdrs", justify="right")
    for cells in zip(_BILLED, _billed(outcome.naive), _billed(outcome.ours), strict=True):
        table.add_row(*cells)
    console.print(table)


def _billed(bill: Bill) -> tuple[str, ...]:
    """The column of one reading, in the order of `_BILLED`."""
    counts = (bill.calls - bill.absent, bill.off, bill.negative, bill.absent)
    return (*map(str, counts), f"{bill.wrong_seconds / 60:.2f}")


def _short(value: object) -> str:
    text = visible(str(value))
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "..."
