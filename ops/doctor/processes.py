"""Do the running processes belong together: one version, partitions shared evenly, no unrest?

Owns the question to the topic of statuses and its judgement. Whether somebody works at all is told
by heartbeats and by the sink's progress.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from ops.doctor.checks import Finding, cannot_tell, ok, warn

if TYPE_CHECKING:
    from ops.config_kafka import Kafka

FRESH_SECONDS: Final = 10.0
REBALANCES_MAX: Final = 3
_PATIENCE_SECONDS: Final = 2.5

Record = Mapping[str, Any]


def gather(kafka: Kafka) -> dict[str, Record] | None:
    """Key to the newest status of every process that has told one just now.

    None where the topic could not be read to its end: who is not in it may well be there.
    """
    from ops.monitor.statuses import StatusTail  # noqa: PLC0415  Kafka's client is slow to load

    tail = StatusTail(kafka)
    tail.start()
    try:
        if not tail.caught_up.wait(_PATIENCE_SECONDS):
            return None
        since = time.time() - FRESH_SECONDS
        return {key: told.record for key, told in tail.newest().items() if told.at >= since}
    finally:
        tail.stop()


def judge(told: Mapping[str, Record] | None) -> list[Finding]:
    """What does not fit together."""
    if told is None:
        return [cannot_tell("the statuses of the processes could not be read in time")]
    workers = {
        key.removeprefix("worker:"): record
        for key, record in told.items()
        if key.startswith("worker:")
    }
    findings = [*_versions(told), *_unrest(workers), *_shares(workers)]
    return findings or [ok(f"{len(told)} process(es) of version {version('cdrstream')}")]


def _versions(told: Mapping[str, Record]) -> Sequence[Finding]:
    found: dict[str, list[str]] = {}
    for key, record in sorted(told.items()):
        found.setdefault(str(record.get("version") or "an older one"), []).append(key)
    found.setdefault(version("cdrstream"), []).append("this command")
    if len(found) == 1:
        return []
    said = "; ".join(f"{number}: {', '.join(names)}" for number, names in sorted(found.items()))
    return [
        warn(
            f"several versions run: {said}",
            "one, but for the minutes of an upgrade",
            "restart those that are old",
        )
    ]


def _unrest(workers: Mapping[str, Record]) -> Sequence[Finding]:
    return [
        warn(
            f"worker {name}: partitions were given anew {count} times within ten minutes",
            f"{REBALANCES_MAX} at most",
            "do workers start again and again, or lose the broker? their logs say so",
        )
        for name, record in sorted(workers.items())
        if (count := record.get("rebalanced_lately") or 0) > REBALANCES_MAX
    ]


def _shares(workers: Mapping[str, Record]) -> Sequence[Finding]:
    shares = {name: len(record.get("partitions") or ()) for name, record in workers.items()}
    if not shares or max(shares.values()) - min(shares.values()) <= 1:
        return []
    said = ", ".join(f"{name} has {count}" for name, count in sorted(shares.items()))
    return [
        warn(
            f"partitions are shared unevenly: {said}",
            "a difference of one",
            "it settles with the next rebalance: restart one that has too many",
        )
    ]
