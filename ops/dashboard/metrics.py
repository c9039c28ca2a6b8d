"""What the dashboard exports: what it sees of those who may be away and cannot say so themselves.

Owns names and meanings. The slots' names are the reader's: whoever looked says it, and rules take
the greatest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from cdc import metrics as reader
from ops.dashboard.boards import Boards
from ops.monitor import Sampler
from ops.replay import metrics as replay


class Gauge(NamedTuple):
    """A name without prefix, its meaning and labels."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


CONFIGURED: Final = Gauge("config_server", "1 for each server that is configured", ("server",))
PARTITIONS: Final = Gauge("config_partitions", "partitions of the event topic")
CLIENTS: Final = Gauge("dashboard_clients", "live connections of browsers")
VISIBLE: Final = Gauge(
    "visible_through_timestamp_seconds", "all calls that ended before it are in `cdrs`"
)
LETTERS: Final = Gauge("dead_letters", "dead letters that the topic still holds")
ANSWERS: Final = Gauge("dashboard_source_answers", "1 while it answers", ("source",))
STATUS: Final = Gauge(
    "reader_status_timestamp_seconds", "when the reader's last status came", ("server",)
)
LOG_START: Final = Gauge("stream_log_start_offset", "where a partition begins", ("partition",))
LOG_END: Final = Gauge("stream_log_end_offset", "where a partition ends", ("partition",))
STORED: Final = Gauge("sink_position_offset", "next offset as the sink has it", ("partition",))
PROBLEMS: Final = Gauge("dashboard_problems", "open problems as the pages list them", ("severity",))
DECLARED: Final = (
    *(CONFIGURED, PARTITIONS, CLIENTS, VISIBLE, LETTERS, ANSWERS, STATUS),
    *(LOG_START, LOG_END, STORED, PROBLEMS),
)
_SLOT: Final = (
    (reader.UNREAD_WAL, "unread"),
    (reader.RETAINED_WAL, "retained"),
    (reader.SAFE_WAL, "safe"),
)


class DashboardCollector:
    """The newest picture as samples."""

    def __init__(self, sampler: Sampler, boards: Boards, clients: Callable[[], int]) -> None:
        self._sampler = sampler
        self._boards = boards
        self._clients = clients

    def collect(self) -> Iterator[Family]:
        """One family a metric; what is not known has no sample."""
        picture = self._sampler.picture()
        families: dict[str, GaugeMetricFamily] = {}

        def add(gauge: Gauge | reader.Metric, value: float | None, *labels: str) -> None:
            family = families.get(gauge.name)
            if family is None:
                name = reader.PREFIX + gauge.name
                family = GaugeMetricFamily(name, gauge.meaning, labels=gauge.labels)
                families[gauge.name] = family
            if value is not None:
                family.add_metric(labels, value)

        add(PARTITIONS, len(picture["partitions"]))
        add(CLIENTS, self._clients())
        add(VISIBLE, picture["visible"]["through"])
        add(LETTERS, picture["dead_letters"])
        for source in ("broker", "sink"):
            add(ANSWERS, float(picture[source]["answers"]), source)
        for level, severity in (("bad", "critical"), ("warn", "warning")):
            found = sum(one["level"] == level for one in picture["problems"])
            add(PROBLEMS, float(found), severity)
        for part in picture["partitions"]:
            number = str(part["number"])
            add(LOG_START, part["begin"], number)
            add(LOG_END, part["end"], number)
            add(STORED, part["stored"], number)
        for server in picture["servers"]:
            self._of_server(server, picture, add)
        yield from families.values()
        replays = self._boards.replays.answer
        if replays.value is not None and not replays.error:
            yield from replay.of_registry(replays.value)

    def _of_server(
        self, server: dict[str, Any], picture: dict[str, Any], add: Callable[..., None]
    ) -> None:
        name, slot = server["name"], server["slot"]
        add(CONFIGURED, 1.0, name)
        if server["age"] is not None:
            add(STATUS, picture["at"] - server["age"], name)
        if slot["state"] == "unknown":
            return
        add(reader.SLOT_ACTIVE, float(bool(slot["active"])), name, slot["name"])
        for state in reader.SLOT_STATES:
            add(reader.SLOT_STATE, float(slot["state"] == state), name, slot["name"], state)
        for metric, key in _SLOT:
            add(metric, slot[key], name, slot["name"])
        if slot["safe"] is not None and slot["retained"] is not None:
            add(reader.KEEP_LIMIT, slot["safe"] + slot["retained"], name, slot["name"])
