"""A history: what happened to an installation, step by step, and what should come of it.

Owns its form, in memory and as JSON. A history holds no chance and no clock: `world_cluster` plays
it through the production code as often as one likes, and `tests/histories/` replays those that once
failed for ever.

Steps, in order:
    `["append", partition, [[kind, message], ...]]`: Kafka has these records at the log's end.
    `["work", partition, records_max, fate]`: a worker takes a batch; `fate` says how far it got.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from callstate.config import ResolutionConfig, TimeCorrection

VERSION = 1


class Fate(StrEnum):
    """How far a worker gets with a batch before it is killed; the partition then starts again."""

    DONE = "done"
    FED = "fed"  # effects were made and none performed
    WRITTEN = "written"  # the database has them, nothing else
    ASKED = "asked"  # references and dead letters are produced as well
    HALF_LOGGED = "half_logged"  # the changelog has the first half of the calls
    LOGGED = "logged"  # the changelog has all of it, the batch is not acknowledged
    MOVED = "moved"  # all is done, then another worker takes the partition up
    ZOMBIE = "zombie"  # as FED, but the dead worker writes to the database after its successor


@dataclass(frozen=True, slots=True)
class Append:
    """Records arrive in a partition: (kind, message) as in the envelope."""

    partition: int
    records: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A worker takes at most so many records of a partition."""

    partition: int
    records_max: int
    fate: Fate = Fate.DONE


Step = Append | Work


@dataclass(frozen=True, slots=True)
class History:
    """What happened, and the truth about it.

    Attributes:
        truths: Lines as in `truth.jsonl`.
        tolerances_ms: By call, how far its times may be off: as far as the probes were.
        timeless: Calls whose times cannot be told, because no probe says how the clocks were.
    """

    config: ResolutionConfig
    partitions: int
    steps: tuple[Step, ...]
    truths: tuple[Mapping[str, Any], ...]
    tolerances_ms: Mapping[str, float]
    timeless: frozenset[str] = frozenset()
    told: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` reads it back."""
        steps: list[list[Any]] = []
        for step in self.steps:
            if isinstance(step, Append):
                steps.append(["append", step.partition, [list(one) for one in step.records]])
            else:
                steps.append(["work", step.partition, step.records_max, step.fate.value])
        settings = {name: getattr(self.config, name) for name in ResolutionConfig.__slots__}
        return {
            "v": VERSION,
            "told": dict(self.told),
            "config": settings,
            "partitions": self.partitions,
            "truths": list(self.truths),
            "tolerances_ms": dict(self.tolerances_ms),
            "timeless": sorted(self.timeless),
            "steps": steps,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> History:
        """Reads what `to_json` wrote."""
        known = {k: v for k, v in told["config"].items() if k in ResolutionConfig.__slots__}
        config = replace(ResolutionConfig(), **known)
        config = replace(
            config,
            servers=tuple(config.servers),
            time_correction=TimeCorrection(config.time_correction),
        )
        return cls(
            config,
            told["partitions"],
            tuple(_steps(told["steps"])),
            tuple(told["truths"]),
            told["tolerances_ms"],
            frozenset(told["timeless"]),
            told["told"],
        )

    def write(self, path: Path) -> None:
        """Writes the history as a file that `tests/histories/` replays."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(self.to_json()) + b"\n")

    @classmethod
    def read(cls, path: Path) -> History:
        """Reads what `write` wrote."""
        return cls.from_json(orjson.loads(path.read_bytes()))


def _steps(told: Iterable[list[Any]]) -> Iterable[Step]:
    for kind, partition, *rest in told:
        if kind == "append":
            yield Append(partition, tuple((one[0], one[1]) for one in rest[0]))
        else:
            yield Work(partition, rest[0], Fate(rest[1]))
