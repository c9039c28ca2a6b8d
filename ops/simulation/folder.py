"""Traffic as a folder of files, which `cdrstream resolve` and `score` read.

Owns their names and form: `rows.NAME.jsonl`, `truth.jsonl`, `observer_state.jsonl`, `meta.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from ops.simulation.traffic import Traffic, TrafficSpec, generate


def write_folder(traffic: Traffic, folder: Path) -> dict[str, Any]:
    """Writes the files, replacing those of an earlier run, and returns what `meta.json` says."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("rows.*.jsonl"):
        stale.unlink()
    servers = traffic.spec.servers
    by_server: list[list[dict[str, Any]]] = [[] for _ in servers]
    for write in traffic.writes:
        by_server[write.server].append(write.row)
    for server, rows in zip(servers, by_server, strict=True):
        _write_lines(folder / f"rows.{server.name}.jsonl", rows)
    truths = list(traffic.truth_lines())
    _write_lines(folder / "truth.jsonl", truths)
    states = (row for observer in traffic.observers for row in observer.state_rows())
    _write_lines(folder / "observer_state.jsonl", states)
    meta = {
        "args": traffic.spec.described(),
        "observers": [server.observer for server in servers],
        "offset_ms": [server.clock.offset_ms for server in servers],
        "drift_ppm": [server.clock.drift_ppm for server in servers],
        "steps": [list(server.clock.steps) for server in servers],
        "rows": [len(rows) for rows in by_server],
        "events": sum(not write.again for write in traffic.writes),
        "calls": len(truths),
    }
    (folder / "meta.json").write_bytes(orjson.dumps(meta, option=orjson.OPT_INDENT_2) + b"\n")
    return meta


def simulate(out: Path, spec: TrafficSpec) -> dict[str, Any]:
    """Makes traffic and writes it as a folder; what `cdrstream simulate` calls."""
    return write_folder(generate(spec), out)


def _write_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for item in objects:
            file.write(orjson.dumps(item) + b"\n")
