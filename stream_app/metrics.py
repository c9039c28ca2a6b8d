"""What a worker counts and measures for Prometheus, each named once.

Owns names, labels and meanings, the counting of what passes by (counters and histograms of this
process), and the samples of what is so at a scrape (`WorkerCollector`). Refuses to serve them.

What is not known has no sample; a partition that is taken away leaves none behind; times are
timestamps on the reference's scale and not ages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from callstate.effects import (
    ClocksDisagree,
    ClockStepped,
    DeadLetter,
    Effect,
    EmitCdr,
    RecordLate,
)

PREFIX: Final = "cdrstream_"
SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    *(10, 30, 60, 120, 300, 600),
)
SOURCE_STATES: Final = ("active", "set_aside", "untrusted", "never_seen")
OUTCOMES: Final = {
    "C": "completed",
    "T": "transferred",
    "A": "abandoned",
    "F": "failed",
    "U": "unknown",
}
_US: Final = 1_000_000
_END_SAMPLES: Final = 50  # of one commit: enough for a histogram, and no cost in a backlog


class Metric(NamedTuple):
    """A name without prefix, what it is, its labels, and what it means."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "gauge", labels, meaning)


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "counter", labels, meaning)


CONFIGURED: Final = _gauge("config_server", "1 for each server that is configured", "server")
WATERMARK: Final = _gauge(
    "stream_watermark_timestamp_seconds", "no event before it is still to come", "partition"
)
FLOOR: Final = _gauge(
    "stream_watermark_floor_seconds", "what the watermark always stays behind: lateness, heartbeat"
)
HOLDER: Final = _gauge(
    "stream_watermark_holder",
    "1 for the server that the watermark waits for",
    "partition",
    "server",
)
POSITION: Final = _gauge("stream_position_offset", "next offset to be read", "partition")
END: Final = _gauge(
    "stream_end_offset", "where the partition ends, as of the last fetch", "partition"
)
FRONTIER: Final = _gauge(
    "stream_frontier_timestamp_seconds", "least progress over this worker's partitions", "server"
)
HOLDING: Final = _gauge(
    "stream_holding_partitions", "partitions whose watermark waits for the server", "server"
)
SOURCE: Final = _gauge(
    "stream_source_state", "partitions in which the server is in that state", "server", "state"
)
OPEN_CALLS: Final = _gauge(
    "stream_open_calls", "calls that are kept, finished ones for late events"
)
OLDEST_CALL: Final = _gauge(
    "stream_oldest_call_timestamp_seconds",
    "when the oldest call began that was answered and has no end; absent: there is none",
)
TRAFFIC_OFFSET: Final = _gauge(
    "clock_traffic_offset_seconds",
    "the server's clock minus the reference's, by the calls that crossed it; checks the probe",
    "server",
)
TRAFFIC_ERROR: Final = _gauge(
    "clock_traffic_error_seconds", "half-width of that offset's bound", "server"
)
HELD: Final = _gauge("stream_held_records", "records fetched and not yet committed")
HELD_MAX: Final = _gauge("stream_held_records_max", "the bound on it; at the bound fetching pauses")
ASSIGNED: Final = _gauge("stream_assigned_partitions", "partitions that this worker has")
RECOVERING: Final = _gauge("stream_recovering", "1 while partitions are being taken up")
RECOVERY: Final = _gauge("stream_recovery_seconds", "how long the last taking up took")
RECOVERY_LEFT: Final = _gauge(
    "stream_recovery_remaining_records",
    "records of the changelog still to be read back; 0 when all is taken up",
)
REBALANCES: Final = _counter("stream_rebalances_total", "partitions were given anew")
SINK_WATERMARK: Final = _gauge(
    "sink_watermark_timestamp_seconds", "all calls that ended before it are in `cdrs`", "partition"
)
SINK_CDRS: Final = _counter("sink_cdrs_total", "CDRs by what the database did", "outcome")
SINK_COMMITS: Final = _counter("sink_commits_total", "transactions")
SINK_FAILING: Final = _gauge("sink_failing", "1 while commits fail and are tried again")

TOLD: Final = _counter(
    "stream_calls_told_total", "tellings of calls, revisions too, by what closed them", "reason"
)

DECLARED: Final = tuple(each for each in list(globals().values()) if isinstance(each, Metric))

RECORDS: Final = Counter(
    PREFIX + "stream_records_total", "records by what became of them", ("outcome",), registry=None
)
CLOSED: Final = Counter(
    PREFIX + "stream_calls_closed_total",
    "calls told for the first time",
    ("outcome",),
    registry=None,
)
SUSPECT: Final = Counter(
    PREFIX + "stream_suspect_calls_total", "CDRs that a gap may have made wrong", registry=None
)
LATE: Final = Counter(
    PREFIX + "stream_late_events_total",
    "events that came after their call was closed",
    ("server",),
    registry=None,
)
LATENESS: Final = Histogram(
    PREFIX + "stream_lateness_seconds",
    "how far behind the watermark late events came",
    buckets=SECONDS,
    registry=None,
)
INVERSIONS: Final = Counter(
    PREFIX + "stream_inversions_total",
    "pairs of events that the protocol orders against the clocks",
    ("server",),
    registry=None,
)
STEPS: Final = Counter(
    PREFIX + "clock_steps_total", "a server's clock was set", ("server", "reason"), registry=None
)
DISAGREEMENTS: Final = Counter(
    PREFIX + "clock_disagreements_total",
    "probe and traffic measured a clock differently, beyond both errors",
    ("server",),
    registry=None,
)
BATCH_SECONDS: Final = Histogram(
    PREFIX + "stream_batch_seconds", "resolving of one batch", buckets=SECONDS, registry=None
)
COMMIT_SECONDS: Final = Histogram(
    PREFIX + "sink_transaction_seconds",
    "one commit: database, side records and changelog",
    buckets=SECONDS,
    registry=None,
)
END_TO_VISIBLE: Final = Histogram(
    PREFIX + "sink_end_to_visible_seconds",
    "from a call's corrected end to its CDR's commit",
    buckets=SECONDS,
    registry=None,
)
ERRORS: Final = Counter(
    PREFIX + "sink_errors_total",
    "commits that failed and were tried again",
    ("reason",),
    registry=None,
)
PASSING: Final = (
    *(RECORDS, CLOSED, SUSPECT, LATE, LATENESS, INVERSIONS, STEPS, DISAGREEMENTS),
    *(BATCH_SECONDS, COMMIT_SECONDS, END_TO_VISIBLE, ERRORS),
)
RECORD_OUTCOMES: Final = {
    "applied": "applied",
    "duplicates": "duplicate",
    "dropped": "dropped",
    "dead_letters": "dead_letter",
    "heartbeats": "marker",
}
for _outcome in RECORD_OUTCOMES.values():
    RECORDS.labels(_outcome)
GAP_RECORDS: Final = RECORDS.labels("gap")
for _outcome in (*OUTCOMES.values(), "hidden"):
    CLOSED.labels(_outcome)
# What closed a call, by how its rule's words begin: see `callstate.resolution`.
REASONS: Final = {
    "BYE": "bye",
    "REFER": "refer",
    "the last attempt failed": "failure",
    "no final answer": "ringing_limit",
    "end unknown": "call_limit",
}
_IN_DIALOG: Final = "failure_in_dialog"
_told: Final = dict.fromkeys((*REASONS.values(), _IN_DIALOG), 0)


def count_effect(effect: Effect) -> None:
    """Counts what the processor said besides its own counters."""
    if isinstance(effect, EmitCdr):
        why = effect.provenance
        _told[reason_of(why.rule)] += 1
        if why.suspect:
            SUSPECT.inc()
        for _, second in why.inversions:
            INVERSIONS.labels(str(why.events[second]["server"])).inc()
    elif isinstance(effect, RecordLate):
        LATE.labels(effect.server).inc()
        LATENESS.observe(effect.late_us / _US)
    elif isinstance(effect, ClockStepped):
        STEPS.labels(effect.server, effect.source).inc()
    elif isinstance(effect, ClocksDisagree):
        DISAGREEMENTS.labels(effect.server).inc()
    elif isinstance(effect, DeadLetter):
        pass  # among the processor's own counters


def reason_of(rule: str) -> str:
    """What closed a call, of a closed set, by its rule in words."""
    for words, reason in REASONS.items():
        if rule.startswith(words):
            return reason
    return _IN_DIALOG


class Counted:
    """Turns a partition's counters, which move with it, into counters of this process."""

    def __init__(self, counters: Mapping[str, Any]) -> None:
        self._before = counters

    def now(self, counters: Mapping[str, Any]) -> None:
        """Adds what has been counted since the last time."""
        before, self._before = self._before, counters
        for name, outcome in RECORD_OUTCOMES.items():
            RECORDS.labels(outcome).inc(max(0, counters[name] - before[name]))
        CLOSED.labels("hidden").inc(max(0, counters["hidden"] - before["hidden"]))
        told: Mapping[str, int] = before["terminations"]
        for termination, count in counters["terminations"].items():
            more = max(0, count - told.get(termination, 0))
            CLOSED.labels(OUTCOMES.get(termination, termination)).inc(more)


def count_commit(seconds: float, ends_us: Iterable[int], now: float) -> None:
    """A commit is durable: how long it took, and how long ago its calls ended."""
    COMMIT_SECONDS.observe(seconds)
    for number, end_us in enumerate(ends_us):
        if number >= _END_SAMPLES:
            return
        END_TO_VISIBLE.observe(max(0.0, now - end_us / _US))


class WorkerCollector:
    """The worker's state at a scrape; `status` gives what `status.worker_status` makes."""

    def __init__(
        self, status: Callable[[], Mapping[str, Any]], servers: Iterable[str], floor_seconds: float
    ) -> None:
        self._status = status
        self._servers = tuple(servers)
        self._floor_seconds = floor_seconds

    def collect(self) -> Iterator[Family]:
        """One family a declared metric, and what was counted in passing."""
        families = {metric: _family(metric) for metric in DECLARED}
        for metric, labels, value in self._samples(self._status()):
            if value is not None:
                families[metric].add_metric(labels, value)
        yield from families.values()
        for counted in PASSING:
            yield from counted.collect()

    def _samples(
        self, status: Mapping[str, Any]
    ) -> Iterator[tuple[Metric, tuple[str, ...], float | None]]:
        for server in self._servers:
            yield CONFIGURED, (server,), 1.0
        yield FLOOR, (), self._floor_seconds
        partitions: Mapping[str, Mapping[str, Any]] = status["partitions"]
        for number, part in partitions.items():
            yield WATERMARK, (number,), _seconds(part["watermark_us"])
            yield SINK_WATERMARK, (number,), _seconds(part["written_watermark_us"])
            yield POSITION, (number,), part["position"]
            yield END, (number,), part["end_offset"]
            if part["holder"] is not None:
                yield HOLDER, (number, part["holder"]), 1.0
        yield from self._sources(list(partitions.values()))
        yield OPEN_CALLS, (), status["open_calls"]
        yield OLDEST_CALL, (), _seconds(status["oldest_call_us"])
        for reason, count in list(_told.items()):
            yield TOLD, (reason,), count
        yield HELD, (), status["held_records"]
        yield HELD_MAX, (), status["held_records_max"]
        yield ASSIGNED, (), len(partitions)
        yield RECOVERING, (), float(status["state"] == "recovering")
        yield RECOVERY, (), status["recovery_seconds"]
        yield RECOVERY_LEFT, (), status["recovery_records"]
        yield REBALANCES, (), status["rebalances"]
        sink: Mapping[str, Any] = status["sink"]
        for outcome in ("inserted", "revised", "hidden", "stale", "poison"):
            yield SINK_CDRS, (outcome,), sink[outcome]
        yield SINK_COMMITS, (), sink["commits"]
        yield SINK_FAILING, (), float(sink["failing_since"] is not None)

    def _sources(
        self, partitions: list[Mapping[str, Any]]
    ) -> Iterator[tuple[Metric, tuple[str, ...], float | None]]:
        for server, (offset_us, error_us) in best_traffic_clocks(partitions).items():
            yield TRAFFIC_OFFSET, (server,), _seconds(offset_us)
            yield TRAFFIC_ERROR, (server,), _seconds(error_us)
        servers = {*self._servers, *(name for part in partitions for name in part["frontiers"])}
        for server in sorted(servers):
            seen = [each for part in partitions if (each := part["frontiers"].get(server))]
            known = [each["frontier_us"] for each in seen if each["frontier_us"] is not None]
            yield FRONTIER, (server,), _seconds(min(known, default=None))
            yield HOLDING, (server,), float(sum(p["holder"] == server for p in partitions))
            for state in SOURCE_STATES:
                yield SOURCE, (server, state), float(sum(each["state"] == state for each in seen))


def best_traffic_clocks(partitions: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Server to offset and error in microseconds, by the partition that tells it best."""
    best: dict[str, tuple[int, int]] = {}
    for part in partitions:
        for server, (offset_us, error_us) in part.get("traffic_clocks", {}).items():
            if server not in best or error_us < best[server][1]:
                best[server] = (offset_us, error_us)
    return best


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(PREFIX + metric.name, metric.meaning, labels=metric.labels)


def _seconds(us: int | None) -> float | None:
    return None if us is None else us / _US
