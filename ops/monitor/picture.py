"""The facts, judged: one JSON-able snapshot that terminal, pages and metrics show alike.

Owns what late, away and stale mean, per server and per partition, and the shape of the snapshot
(`v` is its version). Refuses to ask anybody: a pure function of `Facts`. The headline and the open
problems are in `headline`.

Every time is in seconds since 1970 on the reference's clock; ages in seconds. Not known is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from ops.monitor.facts import Answer, Facts, Json, Rules, Slot, Told
from ops.monitor.reasons import AWAY, NEVER, say_why
from stream_app.metrics import best_traffic_clocks

T = TypeVar("T")

VERSION: Final = 1
STALE_SECONDS: Final = 6.0  # three statuses missed
LATE_SECONDS: Final = 3.0  # over the floor: worth a word
GONE_SECONDS: Final = 300.0
US: Final = 1e6
GONE: Final = "gone"  # a worker that is away, whose partitions others have
_NOBODY: Final[tuple[str, Told | None, Json]] = ("", None, {})


def draw(facts: Facts, rules: Rules) -> dict[str, Any]:
    """The snapshot, without headline and problems."""
    now = facts.now - (facts.clock_ahead or 0.0)
    readers = {name: facts.statuses.get(f"reader:{name}") for name in rules.servers}
    workers = {
        key.removeprefix("worker:"): told
        for key, told in facts.statuses.items()
        if key.startswith("worker:")
    }
    partitions = _partitions(facts, rules, workers, now)
    broker = _present(facts.broker)
    traffic = _traffic_clocks(workers, facts.now)
    servers = [
        {
            **_server(name, told, facts, rules, partitions, now),
            "traffic": traffic.get(name),
        }
        for name, told in readers.items()
    ]
    say_why(partitions, {server["name"]: server for server in servers}, rules)
    return {
        "v": VERSION,
        "at": now,
        "local_at": facts.now,
        "clock_ahead": facts.clock_ahead,
        "floor_seconds": rules.floor_seconds,
        "skew_warning_seconds": rules.skew_warning_seconds,
        "broker": _health(facts.broker, facts.now),
        "sink": {**_health(facts.sink, facts.now), **_sink(facts)},
        "visible": _visible(facts, rules, now),
        "servers": servers,
        "partitions": partitions,
        "workers": _workers(workers, partitions, facts),
        "cdrs_per_minute": None,  # by who watches for a while: `pace`
        "dead_letters": None if broker is None else broker.dead_letters,
        "gaps": _gaps(facts),
    }


def _health(answer: Answer[Any], now: float) -> dict[str, Any]:
    return {
        "answers": bool(answer.value is not None and not answer.error),
        "age": None if answer.at is None else max(0.0, now - answer.at),
        "error": answer.error or None,
        "failing_seconds": None if answer.failing_since is None else now - answer.failing_since,
    }


def _present(answer: Answer[T]) -> T | None:
    """What somebody says of this moment; who does not answer any more says nothing of it."""
    return None if answer.error else answer.value


def _sink(facts: Facts) -> dict[str, Any]:
    value = facts.sink.value
    if value is None:
        return {
            "active_calls": None,
            "oldest_call": None,
            "holders": [],
            "counters": {},
            "outcomes": {},
        }
    counters: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    for row in value.progress:
        for name, count in row.counters.items():
            if isinstance(count, int):
                counters[name] = counters.get(name, 0) + count
        for outcome, count in (row.counters.get("terminations") or {}).items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    return {
        "active_calls": None if facts.sink.error else value.active_calls,
        "oldest_call": None if facts.sink.error else value.oldest_call,
        "outcomes": outcomes,
        "holders": sorted({row.holder for row in value.progress if row.holder}),
        "counters": counters,
    }


def _visible(facts: Facts, rules: Rules, now: float) -> dict[str, Any]:
    """Up to when everything is in `cdrs`: the least over the partitions, and who is missing."""
    value = facts.sink.value
    marks = {} if value is None else {row.partition: row.watermark_us for row in value.progress}
    missing = [number for number in range(rules.partitions) if marks.get(number) is None]
    through = None
    if value is not None and not missing:
        through = min(mark for mark in marks.values() if mark is not None) / US
    lag = None if through is None else now - through
    return {
        "through": through,
        "lag": lag,
        "excess": None if lag is None else max(0.0, lag - rules.floor_seconds),
        "missing": missing if value is not None else [],
    }


def _server(
    name: str,
    told: Told | None,
    facts: Facts,
    rules: Rules,
    partitions: Sequence[Json],
    now: float,
) -> dict[str, Any]:
    record: Json = {} if told is None else told.record
    age = None if told is None else max(0.0, facts.now - told.at)
    stale = age is None or age > STALE_SECONDS
    get = record.get
    offset_us = get("clock_offset_us")
    progress = _reference(get("progress_us"), offset_us)
    # A fresh record is judged as of its arrival, else its own age would look like lag.
    as_of = now if stale or told is None else now - (facts.now - told.at)
    slot = _slot(name, record, stale, facts, rules.slots)
    held = [
        part
        for part in partitions
        if part["holder"] == name and (part["excess"] or 0.0) > LATE_SECONDS
    ]
    frontiers = [one for part in partitions for one in part["frontiers"] if one["server"] == name]
    known = [one["at"] for one in frontiers if one["at"] is not None]
    behind = [one["behind"] for one in frontiers if one["behind"] is not None]
    state = NEVER if told is None else AWAY if stale else str(get("state") or "unknown")
    if get("state") == "stopped" and told is not None:
        state = "stopped"
    return {
        "name": name,
        "state": state,
        "age": age,
        "capture_lag": None if progress is None else as_of - progress,
        "progress": progress,
        "last_row": _reference(get("last_row_us"), offset_us),
        "rows": get("rows_published_total"),
        "rows_per_second": None if stale or told is None else _rate(told),
        "open_transaction_rows": get("open_transaction_rows") or 0,
        "buffer_bytes": None if stale else get("buffer_bytes"),
        "offset": None if offset_us is None else offset_us / US,
        "error": None if get("clock_error_us") is None else get("clock_error_us", 0) / US,
        "clock": _clock(offset_us, get("clock_error_us"), rules),
        "probe_age": None if get("clock_probed_us") is None else _probe_age(record, age or 0.0),
        "clock_steps": get("clock_steps_total"),
        "slot": slot,
        "version": get("version"),
        "gaps": get("gaps_total"),
        "rows_lost": get("rows_lost_total"),
        "reconnects": get("reconnects_total"),
        "kafka_error": None if stale else get("kafka_error"),
        "last_error": get("last_error"),
        "holding": len(held),
        "frontier": min(known, default=None),
        "behind": max(behind, default=None),
        "sources": sorted({one["state"] for one in frontiers}),
        "backfill_rows": get("backfill_rows_total"),
        "backfill_expected": get("backfill_rows_expected"),
    }


def _traffic_clocks(workers: Mapping[str, Told], now: float) -> dict[str, dict[str, float]]:
    """What the calls themselves say of each server's clock, by the partition that tells it best."""
    fresh = [
        part
        for told in workers.values()
        if now - told.at <= STALE_SECONDS
        for part in (told.record.get("partitions") or {}).values()
    ]
    return {
        server: {"offset": offset_us / US, "error": error_us / US}
        for server, (offset_us, error_us) in best_traffic_clocks(fresh).items()
    }


def _rate(told: Told) -> float | None:
    """Rows a second between the last two statuses; None where a reader began in between."""
    before = told.before
    if before is None:
        return None
    seconds = (told.record.get("time_us", 0) - before.get("time_us", 0)) / US
    rows = (told.record.get("rows_published_total") or 0) - (
        before.get("rows_published_total") or 0
    )
    return rows / seconds if seconds > 0 and rows >= 0 else None


def _probe_age(record: Json, age: float) -> float:
    """By the reader's own clock up to its record, by ours since."""
    return max(0.0, float(record["time_us"] - record["clock_probed_us"]) / US + age)


def _slot(
    name: str, record: Json, stale: bool, facts: Facts, slots: Mapping[str, str]
) -> dict[str, Any]:
    """The slot by who looked last: ourselves, else the reader while it is there."""
    answer: Answer[Slot] = facts.slots.get(name, Answer())
    slot_name = slots.get(name, "")
    seen = answer.value
    seconds_left = None if stale else record.get("slot_seconds_left")
    if seen is None or answer.error:
        if stale or record.get("slot_wal_status") is None:
            return {
                "name": slot_name,
                "state": "unknown",
                "error": answer.error or None,
                **dict.fromkeys(("active", "unread", "retained", "safe", "seconds_left", "oldest")),
            }
        return {
            "name": slot_name,
            "state": record["slot_wal_status"],
            "active": True,
            "unread": record.get("slot_unread_bytes"),
            "retained": record.get("slot_retained_bytes"),
            "safe": record.get("slot_safe_wal_bytes"),
            "seconds_left": seconds_left,
            "oldest": None,
            "error": answer.error or None,
        }
    return {
        "name": slot_name,
        "state": seen.wal_status,
        "active": seen.active,
        "unread": seen.unread_bytes,
        "retained": seen.retained_bytes,
        "safe": seen.safe_bytes,
        "seconds_left": seen.seconds_left if seconds_left is None else seconds_left,
        "oldest": seen.oldest_transaction_seconds,
        "error": None,
    }


def _clock(offset_us: int | None, error_us: int | None, rules: Rules) -> str:
    """`ok`, `off`, or that the bound crosses the threshold and nobody can tell."""
    if offset_us is None:
        return "not measured"
    off, error = abs(offset_us) / US, (error_us or 0) / US
    if off - error > rules.skew_warning_seconds:
        return "off"
    return "ok" if off + error <= rules.skew_warning_seconds else "cannot tell"


def _reference(time_us: int | None, offset_us: int | None) -> float | None:
    return None if time_us is None else (time_us - (offset_us or 0)) / US


def _partitions(
    facts: Facts, rules: Rules, workers: Mapping[str, Told], now: float
) -> list[dict[str, Any]]:
    # Where the topic ended when the broker last answered is no measure of what is read now.
    broker, sink = _present(facts.broker), _present(facts.sink)
    ends = {} if broker is None else broker.partitions
    stored = {} if sink is None else {row.partition: row for row in sink.progress}
    owners: dict[int, tuple[str, Told | None, Json]] = {}
    for name, news in workers.items():
        for number, part in (news.record.get("partitions") or {}).items():
            best = owners.get(int(number))
            if best is None or part.get("epoch", 0) > best[2].get("epoch", 0):
                owners[int(number)] = (name, news, part)
    found = []
    for number in range(rules.partitions):
        worker, told, part = owners.get(number, _NOBODY)
        age = None if told is None else facts.now - told.at
        fresh = age is not None and age <= STALE_SECONDS
        as_of = now - age if fresh and age is not None else now
        mark = part.get("watermark_us")
        lag = None if mark is None else as_of - mark / US
        position = part.get("position")
        begin = ends.get(number, (None, None))[0]
        if number in stored and not fresh:
            position = stored[number].next_offset
        end = ends.get(number, (None, None))[1]
        if end is None and fresh:
            end = part.get("end_offset")
        found.append(
            {
                "number": number,
                "worker": worker if fresh else None,
                "age": age,
                "watermark": None if mark is None else mark / US,
                "lag": lag,
                "excess": None if lag is None else max(0.0, lag - rules.floor_seconds),
                "position": position,
                "begin": begin,
                "stored": stored[number].next_offset if number in stored else None,
                "end": end,
                "records": None if end is None or position is None else max(0, end - position),
                "open_calls": part.get("open_calls"),
                "holder": part.get("holder"),
                "frontiers": _frontiers(part, rules),
                "verdict": None,  # by who watches for a while: `movement`
            }
        )
    return found


def _frontiers(part: Json, rules: Rules) -> list[dict[str, Any]]:
    told: Json = part.get("frontiers") or {}
    known = [one["frontier_us"] for one in told.values() if one["frontier_us"] is not None]
    newest = max(known, default=None)
    found = []
    for server in sorted({*rules.servers, *told}):
        one = told.get(server) or {"frontier_us": None, "state": "never_seen"}
        at = one["frontier_us"]
        found.append(
            {
                "server": server,
                "at": None if at is None else at / US,
                "state": one["state"],
                "behind": None if at is None or newest is None else (newest - at) / US,
            }
        )
    return found


def _workers(
    workers: Mapping[str, Told], partitions: Sequence[Json], facts: Facts
) -> list[dict[str, Any]]:
    """All but those whose work others have long taken over."""
    covered = all(part["worker"] is not None for part in partitions)
    told = [_worker(key, one, facts, covered=covered) for key, one in sorted(workers.items())]
    return [one for one in told if one["state"] != GONE or one["age"] < GONE_SECONDS]


def _worker(key: str, told: Told, facts: Facts, *, covered: bool) -> dict[str, Any]:
    record, age = told.record, max(0.0, facts.now - told.at)
    sink: Json = record.get("sink") or {}
    away = GONE if covered else AWAY
    stale = age > STALE_SECONDS
    return {
        "id": key,
        "state": away if stale else str(record.get("state") or "unknown"),
        "age": age,
        "partitions": sorted(int(number) for number in record.get("partitions") or {}),
        "open_calls": record.get("open_calls"),
        "held": record.get("held_records"),
        "held_max": record.get("held_records_max"),
        "rebalances": record.get("rebalances"),
        "rebalanced_lately": record.get("rebalanced_lately"),
        "recovery_seconds": record.get("recovery_seconds"),
        "recovery_records": record.get("recovery_records"),
        "version": record.get("version"),
        "commit_seconds": sink.get("last_commit_seconds"),
        "cdrs": sink.get("inserted"),
        "revised": sink.get("revised"),
        "error": sink.get("error"),
        "advice": sink.get("advice"),
    }


def _gaps(facts: Facts) -> list[dict[str, Any]]:
    value = facts.sink.value
    if value is None:
        return []
    return [
        {
            "server": gap.server,
            "from": gap.from_time,
            "to": gap.to_time,
            "reason": gap.reason,
            "noticed": gap.noticed,
        }
        for gap in value.gaps
    ]
