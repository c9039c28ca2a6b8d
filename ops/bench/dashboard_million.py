"""A day of a million CDRs and fifty servers that tell how they are, without a day's traffic.

Owns the rows, made by the database itself, and the statuses, as readers and a worker write them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
import psycopg
from confluent_kafka import Producer

FIFTY: Final = 50
_PARTITIONS: Final = 8
_US: Final = 1_000_000
# One in 10,000 unknown, one in 20,000 suspect; two parties of 3,000 users each.
_CDRS: Final = """
INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, connect_time,
    end_time, termination, failure_status, failure_reason, caller_internal)
SELECT md5(n::text) || '@10.21.0.17', 'f' || n, 't' || n,
    format('"User %%s" <sip:%%s@example.com>', n %% 3000, n %% 3000),
    format('<sip:%%s@example.com>', n %% 2999), begun,
    CASE WHEN n %% 5 > 0 THEN begun + make_interval(secs => 1 + n %% 40) END,
    begun + make_interval(secs => 60 + n %% 400),
    CASE WHEN n %% 10000 = 7 THEN 'U' WHEN n %% 5 > 0 THEN 'C' ELSE 'F' END,
    CASE WHEN n %% 5 = 0 THEN 486 END, CASE WHEN n %% 5 = 0 THEN 'Busy Here' END, true
FROM (SELECT n, (now() AT TIME ZONE 'UTC') - make_interval(secs => 86400.0 * n / %(rows)s) AS begun
      FROM generate_series(1, %(rows)s) AS n) AS made
"""
_WHY: Final = """
INSERT INTO cdr_provenance (call_id, revision, rule, missing, suspect, servers, offsets, legs,
    inversions, changed, notes, events, late_events, events_dropped)
SELECT call_id, 4, 'BYE', '{}', id % 20000 = 3, '{a,s1}',
    '[{"server": "a", "source": "probe", "applied": true, "error_us": 300, "offset_us": 120000}]',
    '[]', '[]', '{}', '[]', jsonb_build_array(
        jsonb_build_object('server', 'a', 'id', id, 'event_type', 'R', 'cseq', 1, 'from_tag',
            from_tag, 'time', start_time, 'raw_time', start_time, 'observer', 'a:5060',
            'from_url', caller_aor, 'to_url', callee_aor),
        jsonb_build_object('server', 'a', 'id', id + 1, 'event_type', 'E', 'cseq', 2, 'from_tag',
            from_tag, 'time', end_time, 'raw_time', end_time, 'observer', 'a:5060')),
    0, 0
FROM cdrs
"""


def filled(dsn: str, rows: int) -> None:
    """So many CDRs of the last day, with their reasons."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(_CDRS, {"rows": rows})
        connection.execute(_WHY)
        connection.execute("VACUUM ANALYZE cdrs")
        connection.execute("VACUUM ANALYZE cdr_provenance")


@contextmanager
def statuses(bootstrap_servers: str) -> Iterator[None]:
    """Fifty readers and a worker say how they are, every two seconds, while the block lasts."""
    stop = threading.Event()
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 5})

    def tell() -> None:
        while not stop.is_set():
            for key, record in _records(time.time_ns() // 1_000):
                producer.produce("sipx.status", orjson.dumps(record), key)
            producer.flush(5)
            stop.wait(2.0)

    thread = threading.Thread(target=tell, name="statuses", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def _records(now_us: int) -> Iterator[tuple[str, dict[str, Any]]]:
    names = ["a", *(f"s{number}" for number in range(1, FIFTY))]
    for number, name in enumerate(names):
        yield (
            f"reader:{name}",
            {
                "v": 1,
                "role": "reader",
                "server": name,
                "time_us": now_us,
                "state": "streaming",
                "last_error": None,
                "progress_us": now_us - 500_000,
                "last_row_us": now_us - 900_000,
                "rows_published_total": now_us // 50_000,
                "clock_offset_us": (number - 25) * 10_000,
                "clock_error_us": 400,
                "clock_probed_us": now_us - 3 * _US,
            },
        )
    frontiers = {
        name: {"frontier_us": now_us - 700_000 - 1_000 * number, "state": "active"}
        for number, name in enumerate(names)
    }
    yield (
        "worker:w",
        {
            "v": 1,
            "kind": "worker",
            "id": "w",
            "state": "running",
            "partitions": {
                str(number): {
                    "epoch": 1,
                    "position": 1_000,
                    "end_offset": 1_000,
                    "watermark_us": now_us - 6 * _US,
                    "written_watermark_us": now_us - 6 * _US,
                    "frontiers": frontiers,
                    "traffic_clocks": {},
                    "holder": names[-1],
                    "open_calls": 5_000,
                    "counters": {},
                }
                for number in range(_PARTITIONS)
            },
            "open_calls": 40_000,
            "held_records": 10,
            "held_records_max": 20_000,
            "rebalances": 1,
            "sink": {"inserted": 1, "revised": 0, "last_commit_seconds": 0.01},
        },
    )
