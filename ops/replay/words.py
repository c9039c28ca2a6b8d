"""A replay in words: what it read, what is different, and what to type next.

Owns the text of 80 columns that a person reads. Header values are hostile: they are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ops.replay.driving import Verified
from ops.replay.registry import Replay, State
from ops.visible import visible

_CUT = 60


def table(replay: Replay, settings: Mapping[str, Any]) -> Iterator[str]:
    """What a finished replay has found; `settings` are the configured ones."""
    result = replay.result
    summary = result["summary"]
    yield f"replay {replay.id}: {replay.plan.span}, {replay.state.value}"
    if replay.plan.server:
        yield f"  only calls that server {replay.plan.server} saw"
    if replay.plan.calls:
        yield f"  only {len(replay.plan.calls)} calls that were asked for"
    yield f"  {result['records']} records read from the {replay.plan.source}"
    for name in settings:
        if replay.settings.get(name) != settings[name]:
            yield f"  what if: {name} = {replay.settings.get(name)!r} instead of {settings[name]!r}"
    if result.get("missing_until"):
        yield f"  records from before {result['missing_until']} are gone: calls may be missing"
    if result.get("clocks") == "traffic":
        yield "  clocks are measured by the traffic: times may move within their error"
    yield ""
    yield _row("unchanged", summary["unchanged"])
    for kind, count in sorted(summary["kinds"].items(), key=lambda item: (-item[1], item[0])):
        yield _row(kind, count)
    if summary["causes"]:
        yield ""
        for cause, count in sorted(summary["causes"].items(), key=lambda item: (-item[1], item[0])):
            yield _row(f"because: {cause}", count)
    for column, counts in summary["moved_ms"].items():
        yield ""
        yield f"{column} moved by at most"
        for bound, count in counts:
            if count:
                yield _row("  more" if bound is None else f"  {_duration(bound)}", count)
    minutes = summary["minutes"]
    yield ""
    yield (
        f"minutes of talk: {minutes['before']:.2f} before, {minutes['after']:.2f} after "
        f"({minutes['difference']:+.2f})"
    )
    digests = result["digests"]
    same = digests["service"] == digests["replay"]
    yield f"digest of the service's records: {digests['service']}"
    yield "digest of the replay's:          " + ("the same" if same else digests["replay"])


def next_steps(replay: Replay) -> Iterator[str]:
    """What can be done with it now."""
    if replay.is_untold:
        yield "not all who listen to revisions know what it has changed; to go on:"
        yield f"  cdrstream replay --resume {replay.id}"
    elif replay.state is State.DONE and replay.result["summary"]["applicable"]:
        yield "nothing has been changed; to go on:"
        yield f"  cdrstream replay show {replay.id} --changes     (each change)"
        yield f"  cdrstream replay apply {replay.id}              (put them in place)"
    elif replay.state is State.DONE:
        yield "nothing is to be changed"


def change_lines(change: Mapping[str, Any]) -> Iterator[str]:
    """One change, old against new."""
    yield f"{visible(change['call_id'])[:_CUT]}: {', '.join(change['kinds'])} ({change['cause']})"
    old, new = change["old"] or {}, change["new"] or {}
    for column in change["columns"]:
        yield f"    {column}: {_value(old.get(column))} -> {_value(new.get(column))}"
    before, after = change["billed_seconds"]
    if before != after:
        yield f"    billed: {before} s -> {after} s"


def worst(changes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Changes, those that cost most first."""
    for change in changes:
        yield from change_lines(change)


def list_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """One line a replay."""
    if not replays:
        yield "no replays yet"
        return
    yield f"{'id':>5}  {'state':8} {'changed':>8}  range"
    for replay in replays:
        changed = replay.result.get("summary", {}).get("changed", "-")
        yield f"{replay.id:>5}  {replay.state.value:8} {changed:>8}  {replay.plan.span}"
        if replay.is_untold:
            yield f"       not told to all who listen: cdrstream replay --resume {replay.id}"


def verified_lines(verified: Verified) -> Iterator[str]:
    """What comparing a live range with its replay has come to."""
    compared = verified.compared
    yield f"{verified.records} records read; digest of the inputs {verified.inputs}"
    yield f"digest of the settings {verified.settings}"
    yield f"service {verified.service}"
    yield f"replay  {verified.replay}"
    if compared.equal:
        yield f"the same: {compared.same} CDRs"
    else:
        yield (
            f"NOT the same: {compared.same} CDRs are, {compared.different} differ, "
            f"{compared.only_here} only in the replay, {compared.only_there} only in the service"
        )
    if verified.later:
        yield f"{verified.later} CDRs of the service are newer than what was read: left out"


def _row(what: str, count: int) -> str:
    return f"{what:44} {count:>10}"


def _duration(bound_ms: int) -> str:
    if bound_ms < 1_000:
        return f"{bound_ms} ms"
    seconds = bound_ms // 1_000
    return f"{seconds} s" if seconds < 3_600 else f"{seconds // 3_600} h"


def _value(value: object) -> str:
    return "-" if value is None else visible(str(value))[:_CUT]
