"""CDRs out of files, without broker or database: what `cdrstream resolve` does.

Owns the contract that scripts rely on: the same *set* of rows gives the same bytes, in any order
and with any duplicates, because one `PartitionProcessor` is fed all of it and every call is final
at the end of the input.
"""

from __future__ import annotations

import csv
import io
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Final, NamedTuple

import orjson

from callstate.call import CallState
from callstate.cdr import Cdr, Provenance
from callstate.config import ResolutionConfig
from callstate.effects import (
    ClockStepped,
    DeadLetter,
    Effect,
    EmitCdr,
    HideCall,
    SkewObserved,
)
from callstate.envelope import Heartbeat, Malformed, Record
from callstate.events import CallEvent, content_key, format_time, row_of
from callstate.held_calls import DictStore
from callstate.plain_rows import event_of_line
from callstate.processor import PartitionProcessor
from callstate.references import travelling
from ops.cycles import without_cycle_collection
from ops.errors import UsageError
from ops.row_files import STDIN, RowFile, lines, read_line, row_files
from ops.whole_file import whole_file

_BATCH_RECORDS = 1_000
CSV_COLUMNS = (
    "callee_aor",
    "caller_aor",
    "start_time",
    "connect_time",
    "end_time",
    "failure_status",
    "termination",
    "call_id",
)


class Letter(NamedTuple):
    """A dead letter and the line that it came from, where that is known already."""

    effect: DeadLetter
    source: str | None


class Resolved(NamedTuple):
    """What the files say.

    Attributes:
        cdrs: Sorted by start and Call-ID.
        reasons: Provenance of each call that was written or hidden, by call-id.
        letters: What no CDR can be made of.
        hidden: Number of calls without a CDR by rule.
        clocks: Which servers' clocks were off, and which were set.
    """

    cdrs: list[Cdr]
    reasons: dict[str, tuple[Provenance, Cdr | None]]
    letters: list[Letter]
    hidden: int
    clocks: list[SkewObserved | ClockStepped]


def run(
    inputs: Sequence[str],
    *,
    config: ResolutionConfig,
    reference: str | None = None,
    form: str = "jsonl",
    out: str = STDIN,
    provenance: str | None = None,
    dead_letters: str | None = None,
) -> None:
    """Resolves files and writes what they say; `-` is standard output.

    Raises:
        UsageError: An input that does not exist, or a reference that has no rows.
    """
    files = row_files(inputs)
    with without_cycle_collection():
        resolved = resolve_files(files, config, reference, explaining=provenance is not None)
    _warn_of_clocks(resolved)
    with _writing(out) as stream:
        if form == "csv":
            _write_csv(stream, resolved)
        else:
            dumps, option = orjson.dumps, orjson.OPT_APPEND_NEWLINE
            stream.writelines(dumps(cdr.columns(), option=option) for cdr in resolved.cdrs)
    if provenance is not None:
        with _writing(provenance) as stream:
            for call_id in sorted(resolved.reasons):
                stream.write(_json(resolved.reasons[call_id][0].to_json()) + b"\n")
    if dead_letters is not None:
        with _writing(dead_letters) as stream:
            _write_letters(stream, files, resolved.letters)
    elif resolved.letters:
        told = Counter(letter.effect.reason for letter in resolved.letters)
        what = "; ".join(f"{count} x {reason}" for reason, count in told.most_common(5))
        sys.stderr.write(f"dead letters: {len(resolved.letters)} ({what}); ")
        sys.stderr.write("--dead-letters FILE keeps them\n")


def resolve_files(
    files: Sequence[RowFile],
    config: ResolutionConfig,
    reference: str | None,
    *,
    explaining: bool,
) -> Resolved:
    """Reads all rows, then judges every call."""
    store = DictStore()
    processor = PartitionProcessor(
        _without_limits(config), store, explaining=explaining, live=False
    )
    letters: list[Letter] = []
    servers: set[str] = set()
    with _progress(files) as read:
        for source, records in _batches(files, read):
            servers.update(record.server for record in records if type(record) is CallEvent)
            malformed = isinstance(records[0], Malformed)
            letters.extend(
                Letter(effect, source if malformed else None)
                for effect in _feed(processor, records)
                if isinstance(effect, DeadLetter)
            )
    if reference is not None and reference not in servers:
        found = ", ".join(sorted(servers)) or "none"
        raise UsageError(f"--reference {reference}: no such server among the rows (found: {found})")
    letters.extend(Letter(letter, None) for letter in _keep_lesser_rows(store))
    clocks = processor.fit_traffic_clocks(reference or min(servers, default=""))
    return _judged(chain(clocks, processor.finish()), letters, explaining=explaining)


def _without_limits(config: ResolutionConfig) -> ResolutionConfig:
    """Heartbeats are left out, so that the watermark never moves and nothing is final early."""
    return replace(config, servers=())


def _batches(
    files: Sequence[RowFile], read: Callable[[int], None]
) -> Iterator[tuple[str, list[Record]]]:
    """Records in batches; a malformed one alone, so that its line is known.

    `read` is told the bytes of each batch.
    """
    for file in files:
        told = lines(file)
        before = 0
        while chunk := list(islice(told, _BATCH_RECORDS)):
            batch: list[Record | None] = [event_of_line(line, file.server) for line in chunk]
            if None in batch:
                batch = [
                    read_line(line, file.server) if record is None else record
                    for line, record in zip(chunk, batch, strict=True)
                ]
                for number, record in enumerate(batch, before + 1):
                    if type(record) is Malformed:
                        yield f"{file.path}:{number}", [record]
            records = [r for r in batch if r is not None and type(r) not in _LEFT_OUT]
            if records:
                yield file.path, records
            before += len(chunk)
            read(sum(map(len, chunk)))


_LEFT_OUT: Final = (Heartbeat, Malformed)  # the one says nothing here, the other was told alone


@contextmanager
def _progress(files: Sequence[RowFile]) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; nothing at all elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  not needed where nobody looks
    from rich.progress import Progress  # noqa: PLC0415

    paths = [Path(file.path) for file in files]
    total = sum(path.stat().st_size for path in paths if path.is_file())
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading rows", total=total or None)
        yield lambda size: bar.advance(task, size)


def _feed(processor: PartitionProcessor, records: Sequence[Record]) -> list[Effect]:
    """Feeds a batch, and the references that it asks for: here all calls are in one partition."""
    told: list[Effect] = []
    pending: Sequence[Record] = records
    while pending:
        effects = processor.feed(pending)
        told.extend(effects)
        pending = travelling(effects)
    return told


def _keep_lesser_rows(store: DictStore) -> list[DeadLetter]:
    """Of two rows with one identity in *different* calls the lesser stays, as inside one call."""
    ids: dict[str, array[int]] = {}
    for state in store.values():
        for event in state.events.values():
            if event.id is not None and -(2**63) <= event.id < 2**63:
                ids.setdefault(event.server, array("q")).append(event.id)
    twice: set[tuple[str, int]] = set()
    for server, numbers in ids.items():
        if len(set(numbers)) != len(numbers):
            twice.update((server, n) for n, count in Counter(numbers).items() if count > 1)
    if not twice:
        return []
    holders: dict[tuple[str, int], list[tuple[CallEvent, CallState]]] = {}
    for state in store.values():
        for event in state.events.values():
            if event.id is not None and (event.server, event.id) in twice:
                holders.setdefault((event.server, event.id), []).append((event, state))
    letters = []
    for key in sorted(holders):
        _, *others = sorted(holders[key], key=lambda held: content_key(held[0]))
        for event, state in others:
            del state.events[key]
            letters.append(
                DeadLetter("two rows with one identity", event.server, row_of(event), event.call_id)
            )
    return letters


def _judged(effects: Iterable[Effect], letters: list[Letter], *, explaining: bool) -> Resolved:
    cdrs: list[Cdr] = []
    reasons: dict[str, tuple[Provenance, Cdr | None]] = {}
    hidden = 0
    clocks: list[SkewObserved | ClockStepped] = []
    for effect in effects:
        if isinstance(effect, EmitCdr):
            cdrs.append(effect.cdr)
            if explaining:
                reasons[effect.cdr.call_id] = (effect.provenance, effect.cdr)
        elif isinstance(effect, HideCall):
            hidden += 1
            if explaining:
                reasons[effect.call_id] = (effect.provenance, None)
        elif isinstance(effect, DeadLetter):
            letters.append(Letter(effect, None))
        elif isinstance(effect, SkewObserved | ClockStepped):
            clocks.append(effect)
    cdrs.sort(key=attrgetter("start_time_us", "call_id"))
    return Resolved(cdrs, reasons, letters, hidden, clocks)


# -- writing -------------------------------------------------------------------------------


def _warn_of_clocks(resolved: Resolved) -> None:
    for told in resolved.clocks:
        if isinstance(told, ClockStepped):
            what = f"was set by {told.jump_us / 1e6:+.3f} s at about {format_time(told.at_us)}"
        else:
            what = f"is off by {told.offset_us / 1e6:+.3f} s (+- {told.error_us / 1e6:.3f} s)"
        sys.stderr.write(f"the clock of server {told.server} {what}, as the {told.source} tells\n")


@contextmanager
def _writing(path: str) -> Iterator[IO[bytes]]:
    if path == STDIN:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with whole_file(path) as stream:
        yield stream


def _json(told: object) -> bytes:
    """JSON of anything that was read, lone surrogates as U+FFFD and integers of any size."""
    try:
        return orjson.dumps(told)
    except TypeError:
        import json  # noqa: PLC0415  rare: only for what strangers made up

        text = json.dumps(told, ensure_ascii=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _write_csv(stream: IO[bytes], resolved: Resolved) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for cdr in resolved.cdrs:
        columns = cdr.columns()
        writer.writerow("" if columns[name] is None else columns[name] for name in CSV_COLUMNS)
    text.detach()


def _write_letters(stream: IO[bytes], files: Sequence[RowFile], letters: list[Letter]) -> None:
    """One object a line, sorted by where it came from."""
    wanted = {_json(letter.effect.raw) for letter in letters if letter.source is None}
    sources = _sources_of(files, wanted) if wanted else {}
    told = []
    for letter in letters:
        effect = letter.effect
        source = letter.source or sources.get((effect.server, _json(effect.raw)), "")
        told.append((source, effect.reason, effect.server, _json(effect.raw), effect))
    seen = set()
    for source, reason, server, raw, effect in sorted(told, key=lambda item: item[:4]):
        if (source, reason, raw) in seen:
            continue
        seen.add((source, reason, raw))
        letter_json = {"reason": reason, "source": source, "server": server, "raw": effect.raw}
        stream.write(_json(letter_json) + b"\n")


def _sources_of(files: Sequence[RowFile], wanted: set[bytes]) -> dict[tuple[str, bytes], str]:
    """First line that holds each wanted row: a second reading, so that none holds its line."""
    found: dict[tuple[str, bytes], str] = {}
    for file in files:
        if file.path == STDIN or not Path(file.path).is_file():
            continue
        for number, line in enumerate(lines(file), 1):
            record = read_line(line, file.server)
            if type(record) is CallEvent:
                key = (record.server, _json(row_of(record)))
                if key[1] in wanted:
                    found.setdefault(key, f"{file.path}:{number}")
    return found
