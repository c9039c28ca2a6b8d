"""Samples for Prometheus of the readers that run in this process.

Owns which number becomes which metric. Names and labels are declared in `metrics`; refuses to serve
them. What is not known has no sample, so that nobody sums up a 0 that was never measured; times are
timestamps and not ages, so that a reader which stands still cannot look fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from cdc import metrics as names
from cdc.metrics import Metric, ReaderMetrics
from cdc.reader import ServerReader
from cdc.status import State

_US = 1_000_000
_Sample = tuple[Metric, tuple[str, ...], float | None]


class ReaderCollector:
    """Collects at each scrape; readers may be put in while it is asked."""

    def __init__(self) -> None:
        self._readers: dict[str, ServerReader] = {}

    def add(self, reader: ServerReader) -> None:
        """A reader, which takes the place of an earlier one of its server."""
        self._readers[reader.settings.server] = reader

    @property
    def ready(self) -> bool:
        """Whether any of them reads; a standby is as ready as it can be."""
        fit = (State.STREAMING, State.STANDBY, State.BACKFILL)
        return any(reader.state in fit for reader in list(self._readers.values()))

    @property
    def why(self) -> str:
        """What keeps readers from reading, by kind: `a: KafkaUnreachable, ServerUnreachable`."""
        readers = sorted(self._readers.items())
        return "; ".join(f"{n}: {', '.join(r.troubles)}" for n, r in readers if r.troubles)

    def collect(self) -> Iterator[Family]:
        """One family a declared metric, and the acknowledgements' histograms."""
        families = {metric: _family(metric) for metric in names.DECLARED}
        readers = list(self._readers.values())
        for metric, labels, value in chain.from_iterable(map(_samples, readers)):
            if value is not None:
                families[metric].add_metric(labels, value)
        local = _best_local_offset_us(reader.metrics for reader in readers)
        if local is not None:
            families[names.LOCAL_OFFSET].add_metric((), local / _US)
        yield from families.values()
        for counted in names.PASSING:
            yield from counted.collect()


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(names.PREFIX + metric.name, metric.meaning, labels=metric.labels)


def _samples(reader: ServerReader) -> Iterator[_Sample]:
    server, numbers = (reader.settings.server,), reader.metrics
    yield names.STREAMING, server, float(reader.state is State.STREAMING)
    for state in State:
        yield names.STATE, (*server, state.value), float(reader.state is state)
    offset_us = numbers.clock_offset_us or 0
    yield names.PROGRESS, server, _seconds(numbers.progress_us, offset_us)
    yield names.LAST_ROW, server, _seconds(numbers.last_row_us, offset_us)
    yield names.ROWS, (*server, "published"), numbers.rows_published_total
    yield names.ROWS, (*server, "dead_letter"), numbers.dead_letters_total
    yield names.BYTES, server, numbers.bytes_read_total
    yield names.BUFFER, server, numbers.buffer_bytes
    yield names.BUFFER_MAX, server, reader.settings.buffer_bytes_max
    yield names.UNACKED, server, numbers.unacked_records
    yield names.OPEN_ROWS, server, numbers.open_transaction_rows
    for reason, count in list(numbers.reconnects.items()):
        yield names.RECONNECTS, (*server, reason), count
    for kind in reader.troubles:
        yield names.TROUBLE, (*server, kind), 1.0
    yield names.GAPS, server, numbers.gaps_total
    yield names.LOST, server, numbers.rows_lost_total
    yield names.BACKFILL, server, numbers.backfill_rows_total
    backfilling = reader.state is State.BACKFILL
    yield names.BACKFILL_EXPECTED, server, numbers.backfill_rows_expected if backfilling else None
    yield from _clock(server, numbers)
    yield from _slot((*server, reader.settings.slot_name), numbers)


def _clock(server: tuple[str, ...], numbers: ReaderMetrics) -> Iterator[_Sample]:
    yield names.OFFSET, server, _seconds(numbers.clock_offset_us)
    yield names.ERROR, server, _seconds(numbers.clock_error_us)
    yield names.DRIFT, server, numbers.clock_drift
    yield names.PROBED, server, _seconds(numbers.clock_probed_us)
    yield names.PROBE_STEPS, server, numbers.clock_steps_total
    yield names.PROBE_FAILURES, server, numbers.clock_probe_failures_total


def _slot(slot: tuple[str, ...], numbers: ReaderMetrics) -> Iterator[_Sample]:
    if numbers.slot_checked_us is None:
        return
    yield names.SLOT_CHECKED, slot, _seconds(numbers.slot_checked_us)
    yield names.SLOT_ACTIVE, slot, float(bool(numbers.slot_active))
    for state in names.SLOT_STATES:
        yield names.SLOT_STATE, (*slot, state), float(numbers.slot_wal_status == state)
    yield names.UNREAD_WAL, slot, numbers.slot_unread_bytes
    yield names.RETAINED_WAL, slot, numbers.slot_retained_bytes
    safe, retained = numbers.slot_safe_wal_bytes, numbers.slot_retained_bytes
    yield names.SAFE_WAL, slot, safe
    if safe is not None and retained is not None:
        yield names.KEEP_LIMIT, slot, safe + retained
    yield names.ROOM, slot, numbers.slot_seconds_left


def _seconds(us: int | None, less_us: int = 0) -> float | None:
    return None if us is None else (us - less_us) / _US


def _best_local_offset_us(readers: Iterable[ReaderMetrics]) -> int | None:
    known = [
        (each.clock_error_us or 0, each.local_offset_us)
        for each in readers
        if each.local_offset_us is not None
    ]
    return min(known)[1] if known else None
