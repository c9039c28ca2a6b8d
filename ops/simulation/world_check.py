"""What a history came to, against the truth: no CDR lost, none duplicated, none wrong.

Owns the verdict on a played history. What it demands: the CDRs of the truth and no other, each
built of all events of its call however late they came, and the same again when the logs are read
anew by workers that nothing befell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callstate.cdr import TIME_COLUMNS
from callstate.events import CallEvent
from ops.simulation.score import Verdict, score
from ops.simulation.world_cluster import Cluster, Written
from ops.simulation.world_history import History

_TOLERANCE_MS = 25.0
# A row that is read after its server's clock was set, and written before, is stamped with an offset
# that is off by the whole step: then nobody can tell which of two short legs was the longer one.
_BLURRED_MS = 1_000.0
_OF_THE_LEG = frozenset(("to_tag", "callee_contact", "callee_route"))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it should be; `call_id` is empty where it is no call's."""

    kind: str
    call_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a history came to."""

    faults: tuple[Fault, ...]
    calls: int
    right: int
    revised: int
    late: int
    crashes: int
    records: int


def run(history: History) -> Outcome:
    """Plays a history and judges it. An exception of the code under test is a fault."""
    cluster = Cluster(history.config, history.partitions)
    try:
        cluster.play(history)
    except Exception as error:  # noqa: BLE001  whatever it is, it is what we look for
        fault = Fault("raised", "", f"{type(error).__name__}: {error}")
        return Outcome((fault,), len(history.truths), 0, 0, 0, 0, 0)
    faults = [
        *_against_truth(history, cluster),
        *_completeness(cluster),
        *_replayed(history, cluster),
    ]
    return Outcome(
        tuple(faults),
        len(history.truths),
        len(history.truths) - len({fault.call_id for fault in faults}),
        cluster.sink.revised,
        cluster.late,
        cluster.crashes,
        sum(len(log) for log in cluster.logs()),
    )


def _against_truth(history: History, cluster: Cluster) -> list[Fault]:
    got = {call_id: one.cdr.columns() for call_id, one in cluster.sink.calls.items() if one.cdr}
    faults = []
    for truth in history.truths:
        call_id = truth["call_id"]
        tolerance = history.tolerances_ms.get(call_id, _TOLERANCE_MS)
        told = got.pop(call_id, None)
        judged = score([truth], [told] if told else [], tolerance_ms=tolerance).judged[0]
        wrong = dict(judged.wrong)
        if call_id in history.timeless and told is not None:
            wrong = _without_times(wrong)
            if judged.verdict is Verdict.WRONG and not wrong:
                continue
        if tolerance > _BLURRED_MS and told is not None and set(wrong) <= _OF_THE_LEG:
            continue
        if judged.verdict not in (Verdict.RIGHT, Verdict.FREE):
            detail = f"{judged.scenario} {wrong or ''}".strip()
            faults.append(Fault(judged.verdict.value, call_id, detail))
    faults.extend(Fault("invented", call_id, "") for call_id in sorted(got))
    return faults


def _without_times(wrong: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Without those times that are told, however far off; one that is missing is a fault."""
    return {
        column: (want, have)
        for column, (want, have) in wrong.items()
        if column not in TIME_COLUMNS or (want is None) != (have is None)
    }


def _completeness(cluster: Cluster) -> list[Fault]:
    """Every CDR knows every event of its call: what came late has made a revision."""
    rows: defaultdict[str, set[tuple[str, int | None]]] = defaultdict(set)
    for log in cluster.logs():
        for record in log:
            if isinstance(record, CallEvent):
                rows[record.call_id].add((record.server, record.id))
    faults = []
    for call_id, written in sorted(cluster.sink.calls.items()):
        known = {(event["server"], event["id"]) for event in written.provenance.events}
        unknown = rows[call_id] - known
        if unknown:
            faults.append(Fault("not revised", call_id, f"without {sorted(unknown, key=str)}"))
    return faults


def _replayed(history: History, cluster: Cluster) -> list[Fault]:
    """The same logs, read anew from the start in one go, must tell the same.

    Only where times rest on the traffic alone may a crash move them: the exchanges seen since the
    last commit are seen again in the light of what came later.
    """
    again = Cluster(cluster.config, len(cluster.logs()))
    for number, log in enumerate(cluster.logs()):
        again.read(number, log)
    faults = []
    for call_id in sorted(cluster.sink.calls.keys() | again.sink.calls.keys()):
        timeless = call_id in history.timeless and cluster.crashes > 0
        first, second = (
            _told(one.sink.calls.get(call_id), timeless=timeless) for one in (cluster, again)
        )
        if first != second:
            faults.append(Fault("replayed otherwise", call_id, f"{first} {second}"))
    return faults


def _told(written: Written | None, *, timeless: bool) -> object:
    if written is None or written.cdr is None:
        return written and written.provenance.revision
    columns = written.cdr.columns()
    if timeless:
        columns |= {column: columns[column] is None for column in TIME_COLUMNS}
    return columns, written.provenance.revision
