"""What replays are measured by, each named once, and the samples of the one that runs here.

Owns the names that the process of a replay and the dashboard export alike: the dashboard from the
registry, for all to see that a replay was made and what it found; the process itself more often,
with the time that its records are of. Rules take the greatest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

PREFIX: Final = "cdrstream_"
_US: Final = 1e6
OUTCOMES: Final = ("same", "changed", "missing", "extra")
_MISSING: Final = ("removed", "no record of it was read")
_EXTRA: Final = ("added",)


class Metric(NamedTuple):
    """A name without prefix, what it is, its labels, and what it means."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Without samples yet."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(PREFIX + self.name, self.meaning, labels=self.labels)


RECORDS: Final = Metric(
    "replay_records_total", "counter", (), "records that the newest replay has read"
)
EXPECTED: Final = Metric(
    "replay_records_expected", "gauge", (), "records that it has to read, at most"
)
REACHED: Final = Metric(
    "replay_event_timestamp_seconds",
    "gauge",
    (),
    "the time that its records are of; absent unless one runs here",
)
DIFFERENCES: Final = Metric(
    "replay_differences",
    "gauge",
    ("outcome",),
    "CDRs of the newest replay that is done, beside the service's",
)
SUCCEEDED: Final = Metric(
    "replay_last_success_timestamp_seconds", "gauge", (), "when a replay was done last"
)
DECLARED: Final = (RECORDS, EXPECTED, REACHED, DIFFERENCES, SUCCEEDED)


class ReplayCollector:
    """The replay of this process; `tell` hears what `watching` hears."""

    def __init__(self, records: int) -> None:
        self._expected = records
        self._records = 0
        self._event_us: int | None = None

    def tell(self, step: str, records: int, event_us: int | None) -> None:
        """A step has come so far; only the first one reads the records of the plan."""
        if step == "reading":
            self._records = records
            self._event_us = event_us

    def collect(self) -> Iterator[Family]:
        """Records, of how many, and the time that they are of."""
        for metric, value in (
            (RECORDS, float(self._records)),
            (EXPECTED, float(self._expected)),
            (REACHED, None if self._event_us is None else self._event_us / _US),
        ):
            family = metric.family()
            if value is not None:
                family.add_metric((), value)
            yield family


def of_registry(replays: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Of the newest replays as `ops.dashboard.replays` tells them, the newest first."""
    records, expected = RECORDS.family(), EXPECTED.family()
    differences, succeeded = DIFFERENCES.family(), SUCCEEDED.family()
    if replays and replays[0]["records"] is not None:
        done, planned = replays[0]["records"]
        records.add_metric((), done)
        expected.add_metric((), planned)
    done_at = [one["finished_at"] for one in replays if one["finished_at"] is not None]
    if done_at:
        succeeded.add_metric((), max(done_at).timestamp())
    counted = next((one["summary"] for one in replays if one["summary"] is not None), None)
    if counted is not None:
        for outcome, count in outcomes(counted).items():
            differences.add_metric((outcome,), count)
    yield from (records, expected, differences, succeeded)


def outcomes(summary: Mapping[str, Any]) -> dict[str, int]:
    """A finished replay's counts by outcome: a call of several kinds is `changed` once."""
    kinds: Mapping[str, int] = summary["kinds"]
    missing = sum(kinds.get(kind, 0) for kind in _MISSING)
    extra = sum(kinds.get(kind, 0) for kind in _EXTRA)
    return {
        "same": summary["unchanged"],
        "changed": max(0, summary["changed"] - missing - extra),
        "missing": missing,
        "extra": extra,
    }
