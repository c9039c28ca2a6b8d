"""A CDR's revisions over time, as they were told on the topic `cdrs`.

Owns which of its records count: the database has the newest revision only. What is older than the
records that are looked through is not there, and the page says so; nor what Kafka keeps no more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from ops.dashboard.scan import scan
from ops.monitor.watched import Broker
from stream_app.cdr_stream import REVISIONS_A_SWAP


class Revision(NamedTuple):
    """One telling: its number in the database, when, by which rule, and what it changed."""

    number: int
    at: float
    rule: str
    hidden: str
    changed: dict[str, list[Any]]


class Revisions(NamedTuple):
    """Those that were found, oldest first, and whether all that the topic keeps was looked at."""

    told: list[Revision]
    whole: bool


def revisions(broker: Broker, topic: str, call_id: str) -> Revisions:
    """Each revision once.

    Raises:
        KafkaException: The broker does not answer.
    """
    if not topic:
        return Revisions([], whole=False)
    told: dict[int, Revision] = {}
    scanned = scan(broker, topic, call_id)
    for record in scanned.found:
        try:
            message = orjson.loads(record.value or b"")
            number = int(message["revision"])
            told.setdefault(
                number,
                Revision(
                    number % REVISIONS_A_SWAP,
                    record.at,
                    str(message.get("rule") or ""),
                    str(message.get("hidden") or ""),
                    dict(message.get("changed") or {}),
                ),
            )
        except (ValueError, KeyError, TypeError):
            continue  # of another version: what it says is not for us
    return Revisions([told[number] for number in sorted(told)], scanned.whole)
