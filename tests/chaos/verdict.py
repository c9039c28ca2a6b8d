"""Is it all there, once, and right? The CDRs against the truth, the reasons against the rows.

Owns the comparisons; each gives what is wrong, in words, and nothing where all is well.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import orjson
import psycopg
from confluent_kafka import Consumer, TopicPartition

from ops.demo.plan import TOLERANCE_MS
from ops.demo.verdict import read_cdrs
from ops.simulation.score import score
from ops.simulation.traffic import Traffic
from ops.simulation.truth import Expect
from tests.chaos.place import PARTITIONS, Place
from tests.chaos.traffic import truth_lines
from tests.cli_kit import cdrstream


def wrong_cdrs(place: Place, traffic: Traffic) -> list[str]:
    """Calls whose CDR is wrong, missing, doubled, leaked or invented."""
    result = score(truth_lines(traffic), read_cdrs(place.sink_dsn), tolerance_ms=TOLERANCE_MS)
    return [f"{one.call_id} ({one.scenario}): {one.verdict} {one.wrong}" for one in result.faults()]


def wrong_rows(place: Place, traffic: Traffic) -> list[str]:
    """Rows that a server has not, or has and was not given."""
    names = list(place.dsns)
    meant: defaultdict[str, set[int]] = defaultdict(set)
    for write in traffic.writes:
        meant[names[write.server]].add(write.row["id"])
    held = _rows(place)
    return [
        f"server {name}: {len(meant[name] ^ set(held[name]))} rows differ from what was written"
        for name in names
        if meant[name] != set(held[name])
    ]


def incomplete_provenance(place: Place, traffic: Traffic) -> list[str]:
    """Calls whose reasons do not name exactly the rows that the servers have of them."""
    expected: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for server, rows in _rows(place).items():
        for row_id, call_id in rows.items():
            expected[call_id].add((server, row_id))
    told: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    wrong = []
    with psycopg.connect(place.sink_dsn) as connection:
        for call_id, events, suspect, revision in connection.execute(
            "SELECT call_id, events, suspect, revision FROM cdr_provenance"
        ):
            name = call_id.partition(";from-tag=")[0]
            told[name] |= {(event["server"], event["id"]) for event in events}
            if suspect:
                wrong.append(f"{call_id}: suspect, though no log was lost")
            if revision < len(events):
                wrong.append(f"{call_id}: revision {revision} of {len(events)} events")
        gaps = connection.execute("SELECT count(*) FROM cdr_gaps").fetchone()
    if gaps != (0,):
        wrong.append(f"{gaps} gaps, though no log was lost")
    for truth in traffic.truths:
        if truth.expect in (Expect.CDR, Expect.HIDDEN):
            missing = expected[truth.call_id] - told[truth.call_id]
            invented = told[truth.call_id] - expected[truth.call_id]
            if missing or invented:
                wrong.append(
                    f"{truth.call_id} ({truth.scenario}): rows missing {sorted(missing)},"
                    f" invented {sorted(invented)}"
                )
    return wrong


def wrong_stream(place: Place) -> list[str]:
    """Calls of which the topic of revisions says something else than the table, guard applied."""
    newest: dict[str, dict[str, Any]] = {}
    for message in _read(place.stack.broker.bootstrap_servers, "sipx.cdrs"):
        told = orjson.loads(message)
        before = newest.get(told["call_id"])
        if before is None or told["revision"] >= before["revision"]:
            newest[told["call_id"]] = told
    cdrs = {row["call_id"]: row for row in read_cdrs(place.sink_dsn)}
    said = {call_id: told["cdr"] for call_id, told in newest.items() if told["cdr"] is not None}
    wrong = [f"{call_id}: in one of table and topic only" for call_id in cdrs.keys() ^ said.keys()]
    for call_id in cdrs.keys() & said.keys():
        one, other = cdrs[call_id], said[call_id]
        if (one["termination"], one["to_tag"]) != (other["termination"], other["to_tag"]):
            wrong.append(f"{call_id}: topic and table differ")
    return wrong


def wrong_sums(place: Place) -> list[str]:
    """What `doctor --reconcile` says where it does not add up."""
    told = cdrstream("doctor", "--reconcile", config=place.config)
    return [] if told.returncode == 0 else [told.stdout + told.stderr]


def _rows(place: Place) -> dict[str, dict[int, str]]:
    found = {}
    for name, dsn in place.dsns.items():
        with psycopg.connect(dsn) as connection:
            rows = connection.execute("SELECT id, call_id FROM call_state_events").fetchall()
            found[name] = dict(rows)
    return found


def _read(bootstrap: str, topic: str) -> list[bytes]:
    """The values of a whole topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "chaos-verdict",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    values: list[bytes] = []
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        ended: set[int] = set()
        while len(ended) < PARTITIONS:
            for message in consumer.consume(1_000, 1.0):
                if message.error() is None:
                    values.append(message.value())
                else:
                    ended.add(message.partition())
    finally:
        consumer.close()
    return values
