"""Events out of files: which files an INPUT stands for, and what record each line is.

Owns the forms that lines may have (bare rows, envelopes) and whose server a row is. A line that
cannot be read is a `Malformed` record, never an exception: no line stops the others.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from callstate import envelope
from callstate.envelope import Malformed, Record
from callstate.events import BadRow, read_row
from callstate.plain_rows import event_of_line
from ops.errors import UsageError

_ROWS_FILE = re.compile(r"rows\.(.+)\.jsonl")
STDIN = "-"


class RowFile(NamedTuple):
    """One file of rows; `server` is whose they are where the file's name says so."""

    path: str
    server: str | None


def row_files(inputs: Sequence[str]) -> list[RowFile]:
    """The files that INPUT arguments stand for, folders opened, in a stable order.

    Raises:
        UsageError: An input does not exist, or is a folder without rows.
    """
    files: list[RowFile] = []
    for given in inputs:
        path = Path(given)
        if given == STDIN:
            files.append(RowFile(STDIN, None))
        elif path.is_dir():
            found = sorted(file for file in path.iterdir() if _ROWS_FILE.fullmatch(file.name))
            if not found:
                raise UsageError(f"{given}: a folder without any rows.NAME.jsonl")
            files.extend(_row_file(file) for file in found)
        elif path.is_file() or path.is_fifo() or path.is_char_device():
            files.append(_row_file(path))
        else:
            raise UsageError(f"{given}: no such file or folder")
    if sum(file.path == STDIN for file in files) > 1:
        raise UsageError("- (standard input) is given more than once")
    return files


def _row_file(path: Path) -> RowFile:
    match = _ROWS_FILE.fullmatch(path.name)
    return RowFile(str(path), match[1] if match else None)


def lines(file: RowFile) -> Iterator[bytes]:
    """The file's lines, in its own order."""
    if file.path == STDIN:
        yield from sys.stdin.buffer
        return
    with Path(file.path).open("rb") as stream:
        yield from stream


def read_line(line: bytes, server: str | None) -> Record | None:
    """The record that a line is; None for an empty one."""
    event = event_of_line(line, server)
    if event is not None:
        return event
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return None
        try:  # what orjson refuses and others write: lone surrogates, integers of any size
            told = json.loads(text, parse_int=whole_or_float)
        except (ValueError, RecursionError) as bad:
            return Malformed(f"not JSON: {bad}", server or "", text)
    if not isinstance(told, dict):
        return Malformed("not a JSON object", server or "", told)
    kind = _envelope_kind(told)
    if kind is not None:
        return envelope.read_message(kind, told)
    owner = server or told.get("server") or told.get("observer") or ""
    if not isinstance(owner, str):
        return Malformed("server is not text", "", told)
    try:
        return read_row(owner, told)
    except BadRow as bad:
        return Malformed(str(bad.args[0]), owner, told)


def whole_or_float(digits: str) -> int | float:
    """A number as orjson reads it: what no 64 bits hold is no whole number."""
    if len(digits) > 20:
        return float(digits)
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def _envelope_kind(told: dict[str, Any]) -> str | None:
    """Which kind of envelope an object is; None for a bare row."""
    if "row" in told:
        return envelope.EVENT
    if "v" not in told or "event_type" in told:
        return None
    for member, kind in (
        ("progress_us", envelope.HEARTBEAT),
        ("from_lsn", envelope.GAP),
        ("asker", envelope.REFERENCE_ASKED),
        ("referenced", envelope.REFERENCE_KNOWN),
    ):
        if member in told:
            return kind
    return None
