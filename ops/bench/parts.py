"""Benchmarks made of parts: running those that are asked for, and one table of figures and targets.

Owns `--only` and `--json`, and what the table looks like. Refuses to measure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ops.bench.stream_bed import Line, say

Part = Callable[[argparse.Namespace, Path], Iterator[Line]]


def arguments(description: str, parts: Mapping[str, Part]) -> argparse.ArgumentParser:
    """A parser that knows what all such benchmarks are asked for."""
    asked = argparse.ArgumentParser(description=description)
    asked.add_argument("--only", action="append", choices=[*parts], help="a part; repeatable")
    asked.add_argument("--json", action="store_true", help="the table as JSON")
    return asked


def run_parts(parts: Mapping[str, Part], given: argparse.Namespace) -> None:
    """Runs the parts that are asked for and prints one table."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="cdrstream-bench-") as folder:
        for name in given.only or parts:
            say(f"{name} ...")
            lines += parts[name](given, Path(folder))
    if given.json:
        print(json.dumps([_object(line) for line in lines], indent=2))
        return
    width = max(len(line.name) for line in lines)
    for line in lines:
        verdict = "" if line.met is None else "met" if line.met else "NOT MET"
        print(f"{line.name:{width}}  {line.figure:>16}  {line.target:32} {verdict}".rstrip())


def _object(line: Line) -> dict[str, Any]:
    return {
        "name": line.name.strip(),
        "figure": line.figure,
        "target": line.target or None,
        "met": line.met,
    }
