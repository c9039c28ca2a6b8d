"""The command `compare-old`: what is compared, and where the result goes.

Owns the range and the outputs: a table, one JSON object, and each differing call as a line of JSON.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count, islice
from typing import IO, Any, Final

import orjson

from ops.compare_old.report import lines
from ops.compare_old.sides import Range, Sides, both_sides
from ops.config import Config
from ops.diff import Difference, Kind, Tally, pair, reasons
from ops.errors import OpsError, UsageError
from ops.whole_file import whole_file

JSON_VERSION: Final = 1
_CHUNK: Final = 500
_WORST: Final = 10
_GRAVITY: Final = {kind: place for place, kind in enumerate(Kind)}

Reasoned = tuple[Difference, tuple[str, ...]]


def run(
    config: Config,
    *,
    old_schema: str,
    begin: str | None,
    end: str | None,
    tolerance_ms: float,
    diff: str | None,
    as_json: bool,
    exit_code: bool,
) -> None:
    """Compares and prints.

    Args:
        config: Whose sink holds both sides.
        old_schema: Where the old resolver's `cdrs` is.
        begin: Calls that began at or after this, ISO 8601; default: since our first call.
        end: Calls that ended before this; default: as far as ours are complete.
        tolerance_ms: Times no further apart are the same.
        diff: File for the differing calls, a JSON object a line; `-` is standard output.
        as_json: One JSON object instead of the table.
        exit_code: Fail where anything differs.

    Raises:
        UsageError: The two sides are one, or a time cannot be read.
        OpsError: A side is missing, or ours holds nothing yet.
    """
    new_schema = config.sink.schema_name
    if old_schema == new_schema:
        raise UsageError(
            f"both sides are schema {new_schema}",
            'shadow mode writes ours elsewhere: [sink] schema = "cdrstream"; or name another '
            "--old-schema",
        )
    with ExitStack() as parts:
        out = _open(diff, parts)
        sides = parts.enter_context(both_sides(config.sink_dsn(), old_schema, new_schema))
        watermark = sides.watermark(config.kafka.events_topic)
        within = _range(sides, begin, end, watermark)
        tally, worst = Tally(), _Worst()
        for difference, why in _reasoned(sides, within, watermark, round(tolerance_ms * 1_000)):
            tally.add(difference, why)
            worst.add(difference)
            if out is not None and not difference.same:
                out.write(orjson.dumps(_line(difference, why), option=orjson.OPT_APPEND_NEWLINE))
    if as_json:
        told = _object(tally, within, worst)
        sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
    elif diff != "-":
        sys.stdout.write("\n".join(lines(tally, within, worst.calls())) + "\n")
    if exit_code and not tally.calls:
        raise OpsError(
            "nothing was compared: neither side has a call in the range", "another --from or --to"
        )
    if exit_code and tally.differing:
        raise OpsError(f"{tally.differing:,} of {tally.calls:,} calls differ")


def _open(diff: str | None, parts: ExitStack) -> IO[bytes] | None:
    if diff is None:
        return None
    if diff == "-":
        return sys.stdout.buffer
    try:
        return parts.enter_context(whole_file(diff))
    except OSError as error:
        raise UsageError(f"--diff {diff}: {error.strerror}") from error


def _range(sides: Sides, begin: str | None, end: str | None, watermark: datetime | None) -> Range:
    first, last = _time("--from", begin), _time("--to", end)
    first, last = first or sides.first_start(), last or watermark
    if first is None or last is None:
        raise OpsError(
            "our side holds no CDRs yet", "start readers and workers, and wait for the first calls"
        )
    return Range(first, last)


def _time(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: must be ISO 8601, like 2024-03-04T09:00:00Z") from None
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _reasoned(
    sides: Sides, within: Range, watermark: datetime | None, tolerance_us: int
) -> Iterator[Reasoned]:
    """Every call compared, with what we know of the reasons; provenance is asked for in chunks."""
    watermark_us = None
    if watermark is not None:
        watermark_us = round(watermark.replace(tzinfo=UTC).timestamp() * 1_000_000)
    compared = pair(sides.olds(within), sides.news(within), tolerance_us=tolerance_us)
    for chunk in _chunks(compared):
        why = sides.why([one.call_id for one in chunk if not one.same])
        for one in chunk:
            yield one, reasons(one, why.get(one.call_id), watermark_us=watermark_us)


def _chunks(differences: Iterable[Difference]) -> Iterator[list[Difference]]:
    left = iter(differences)
    while chunk := list(islice(left, _CHUNK)):
        yield chunk


class _Worst:
    """The gravest differences, a few of them."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Difference]] = []
        self._number = count()

    def add(self, one: Difference) -> None:
        if one.same or one.kind is Kind.ONLY_OLD:  # nothing of ours to explain
            return
        rank = (-_GRAVITY[one.kind], one.largest_shift_us, -next(self._number), one)
        if len(self._heap) < _WORST:
            heapq.heappush(self._heap, rank)
        else:
            heapq.heappushpop(self._heap, rank)

    def calls(self) -> list[Difference]:
        """The gravest first."""
        return [rank[3] for rank in sorted(self._heap, key=lambda rank: rank[:3], reverse=True)]


def _line(difference: Difference, why: tuple[str, ...]) -> dict[str, Any]:
    return {"v": JSON_VERSION, **difference.as_json(), "reasons": list(why)}


def _object(tally: Tally, within: Range, worst: _Worst) -> dict[str, Any]:
    return {
        "v": JSON_VERSION,
        "from": f"{within.begin.isoformat()}Z",
        "to": f"{within.end.isoformat()}Z",
        **tally.as_json(),
        "gravest": [one.call_id for one in worst.calls()],
    }
