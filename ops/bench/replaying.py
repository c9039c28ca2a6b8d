"""The process that `ops.bench.replay` measures: one replay of a whole topic, its figures as JSON.

Owns what is run and measured: reading to a digest or into shadow tables, with so many processes.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callstate.config import ResolutionConfig
from ops.bench.stream_log import SERVERS, START_US
from ops.replay import registry, shadow
from ops.replay.driving import settings_json
from ops.replay.plan import Span, plan_topic
from ops.replay.share import Job
from ops.replay.workers import run_shares, shares

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be run."""

    bootstrap_servers: str
    topic: str
    references_topic: str
    dsn: str
    workers: int
    to_shadow: bool


def main() -> int:
    """Runs it and prints what it took."""
    asked = Asked(**json.loads(sys.argv[1]))
    kafka = {"bootstrap.servers": asked.bootstrap_servers}
    span = Span(START_US, START_US + 7 * _DAY_US)
    plan = plan_topic(kafka, asked.topic, asked.references_topic, span, _DAY_US)
    rules = ResolutionConfig(servers=SERVERS)
    replay_id = None
    if asked.to_shadow:
        with shadow.connect(asked.dsn, "public", "bench") as connection:
            replay_id = registry.add(connection, plan, settings_json(rules)).id
            shadow.create(connection, replay_id)
    job = Job(
        plan=plan,
        resolution=rules,
        kafka=kafka,
        topic=asked.topic,
        references_topic=asked.references_topic,
        replay_id=replay_id,
        dsn=asked.dsn,
    )
    done = run_shares(job, shares(plan.parts, asked.workers), lambda _: None, lambda: False)
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    told: dict[str, Any] = {
        "seconds": max(share.ended for share in done) - min(share.began for share in done),
        "cpu_seconds": sum(use.ru_utime + use.ru_stime for use in (own, children)),
        "rss_mb": _peak_mb(),
        "records": plan.records,
    }
    print(json.dumps(told))
    return 0


def _peak_mb() -> float:
    """Of this process since it began; `getrusage` counts what its parent had, too."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1_024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
