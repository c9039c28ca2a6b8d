"""The sentence above everything, and the list of what is wrong with what to do about it.

Owns the thresholds that people are shown; the alerts of `docker/prometheus` have the same names
and the same numbers. Cause before effect: the first problem is the one to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from callstate.broker_words import advice_for
from ops.monitor.facts import Json
from ops.monitor.picture import GONE, LATE_SECONDS, STALE_SECONDS
from ops.monitor.reasons import AWAY, NEVER, reason_of
from ops.monitor.words import clock, count, duration, offset, size

OK, WARN, BAD = "ok", "warn", "bad"
RETAINED_WARN_BYTES: Final = 10 * 1024**3
ROOM_SHARE: Final = 0.15
CAPTURE_WARN_SECONDS: Final = 60.0
WATERMARK_WARN_SECONDS: Final = 120.0
WATERMARK_BAD_SECONDS: Final = 900.0
SINK_BEHIND_SECONDS: Final = 60.0
PROBE_OLD_SECONDS: Final = 900.0
DISAGREE_SECONDS: Final = 0.02  # beyond both errors, as the workers judge
GAP_SHOWN_SECONDS: Final = 86_400.0


def judge(picture: dict[str, Any]) -> dict[str, Any]:
    """The picture with `problems` and `verdict`."""
    problems = list(_problems(picture))
    problems.sort(key=lambda one: (BAD, WARN).index(one["level"]))
    worst = problems[0]["level"] if problems else OK
    return {
        **picture,
        "problems": problems,
        "verdict": {"level": worst, "text": _sentence(picture, problems)},
    }


def _sentence(picture: Json, problems: list[dict[str, Any]]) -> str:
    visible = picture["visible"]
    if visible["through"] is None:
        if picture["sink"]["error"]:
            return f"The database of the CDRs does not answer: {picture['sink']['error']}"
        if picture["sink"]["age"] is None:
            return "Nothing is known yet."
        waiting = sorted(
            {
                part["why"] if part["worker"] else "some partitions have no worker"
                for part in picture["partitions"]
            }
        )
        return f"No CDR can be final yet: {'; '.join(waiting)}."
    text = f"All calls that ended before {clock(visible['through'])} UTC are recorded"
    if (visible["excess"] or 0.0) <= LATE_SECONDS:
        return text + (f"; {count(len(problems), 'problem')} below." if problems else ".")
    text += f", {duration(visible['lag'])} ago."
    holders = {
        part["holder"]: part["why"]
        for part in picture["partitions"]
        if part["holder"] and (part["excess"] or 0.0) > LATE_SECONDS
    }
    if picture["sink"]["error"]:
        return f"{text} The database does not answer: {picture['sink']['error']}"
    for name in holders:
        server = next((one for one in picture["servers"] if one["name"] == name), None)
        reason = reason_of(server)
        return f"{text} {name} holds the watermark{': ' + reason if reason else ''}."
    unowned = [part["number"] for part in picture["partitions"] if part["worker"] is None]
    if unowned:
        return f"{text} No worker has partition {', '.join(map(str, unowned))}."
    return f"{text} The workers are behind."


def _problem(level: str, alert: str, text: str, do: str, server: str = "") -> dict[str, Any]:
    return {"level": level, "alert": alert, "text": text, "do": do, "server": server}


def _problems(picture: Json) -> Iterator[dict[str, Any]]:
    yield from _parts_away(picture)
    for server in picture["servers"]:
        yield from _of_reader(server)
        yield from _of_slot(server)
        yield from _of_clock(server, picture["skew_warning_seconds"])
    yield from _of_watermark(picture)
    now = picture["at"]
    recent = [gap for gap in picture["gaps"] if now - gap["noticed"] < GAP_SHOWN_SECONDS]
    for gap in recent[:5]:
        yield _problem(
            BAD,
            "CdrstreamEventsLost",
            f"{gap['server']}: log was lost: {gap['reason']}",
            "calls of that time are marked suspect; rows from a backup: cdrstream ingest",
            gap["server"],
        )
    if picture["dead_letters"]:
        yield _problem(
            WARN,
            "CdrstreamDeadLetters",
            f"{count(picture['dead_letters'], 'dead letter')}: nothing could be made of these",
            "their reasons are on the page Gaps and dead letters",
        )


def _parts_away(picture: Json) -> Iterator[dict[str, Any]]:
    for name, what, do in (
        ("broker", "Kafka does not answer", "is the broker up? readers hold their rows meanwhile"),
        ("sink", "the database of the CDRs does not answer", "events are safe in Kafka meanwhile"),
    ):
        told = picture[name]
        if told["error"]:
            alert = "CdrstreamSinkBehind" if name == "sink" else "CdrstreamCaptureStalled"
            mend = advice_for(told["error"]) if name == "broker" else ""
            yield _problem(BAD, alert, f"{what}: {told['error']}", mend or do)
    for worker in picture["workers"]:
        if worker["error"] and worker["state"] not in (AWAY, GONE):
            yield _problem(
                BAD,
                "CdrstreamSinkBehind",
                f"worker {worker['id']} cannot commit: {worker['error']}",
                worker["advice"] or "its log says more",
            )


def _of_reader(server: Json) -> Iterator[dict[str, Any]]:
    name, state, error = server["name"], server["state"], server["last_error"]
    if state in (NEVER, AWAY, "stopped"):
        yield _problem(
            BAD,
            "CdrstreamReaderMissing",
            f"{name}: {reason_of(server)}",
            f"start it: cdrstream reader --server {name}",
            name,
        )
    elif state in ("retrying", "failed") and error:
        yield _problem(
            BAD if state == "failed" else WARN,
            "CdrstreamReaderMissing",
            f"{name}: {error['text']}",
            error.get("advice") or "its log says more",
            name,
        )
    elif (server["capture_lag"] or 0.0) > CAPTURE_WARN_SECONDS:
        yield _problem(
            WARN,
            "CdrstreamCaptureStalled",
            f"{name}: {reason_of(server) or 'progress stands still'}",
            "inside a large transaction? else: does the reader reach Kafka?",
            name,
        )
    if "set_aside" in server["sources"]:
        yield _problem(
            WARN,
            "CdrstreamSourceSetAside",
            f"{name}: the watermark no longer waits for it",
            "its calls get revised when it returns: no replay yet",
            name,
        )


def _of_slot(server: Json) -> Iterator[dict[str, Any]]:
    name, slot = server["name"], server["slot"]
    if slot["state"] in ("lost", "missing"):
        yield _problem(
            BAD,
            "CdrstreamSlotLost",
            f"{name}: its slot is {slot['state']}",
            f"do not make it by hand: cdrstream doctor --server {name}",
            name,
        )
        return
    safe, retained, left = slot["safe"], slot["retained"], slot["seconds_left"]
    if safe is not None and retained is not None and safe < ROOM_SHARE * (safe + retained):
        yield _problem(
            BAD,
            "CdrstreamSlotWalRunningOut",
            f"{name}: {size(safe)} of log left until the slot is lost"
            + (f", {duration(left)} at this rate" if left is not None else ""),
            "raise max_slot_wal_keep_size there now, causes later",
            name,
        )
    elif retained is not None and retained > RETAINED_WARN_BYTES:
        yield _problem(
            WARN,
            "CdrstreamSlotRetainsWal",
            f"{name}: its slot keeps {size(retained)} of log on disk",
            "unread small but retained large is a long transaction: pg_stat_activity there",
            name,
        )


def _of_clock(server: Json, threshold: float) -> Iterator[dict[str, Any]]:
    name = server["name"]
    if server["clock"] == "off":
        yield _problem(
            WARN,
            "CdrstreamClockOff",
            f"{name}: clock {offset(server['offset'], server['error'])} from the reference;"
            " CDRs are corrected by it",
            "chronyc tracking there; do not set it by hand during traffic",
            name,
        )
    elif server["clock"] == "cannot tell" or (server["probe_age"] or 0.0) > PROBE_OLD_SECONDS:
        yield _problem(
            WARN,
            "CdrstreamClockUnknown",
            f"{name}: its clock cannot be told from right or wrong"
            f" ({offset(server['offset'], server['error'])}, threshold {threshold:g} s)",
            "is the route to that server slow, or the clock's reference away?",
            name,
        )
    traffic = server["traffic"]
    if traffic is not None and server["offset"] is not None:
        apart = abs(traffic["offset"] - server["offset"])
        if apart > traffic["error"] + (server["error"] or 0.0) + DISAGREE_SECONDS:
            yield _problem(
                WARN,
                "CdrstreamClocksDisagree",
                f"{name}: probe and calls measure its clock differently:"
                f" {offset(server['offset'], server['error'])},"
                f" {offset(traffic['offset'], traffic['error'])}",
                "one of them is wrong, and corrected times with it: the runbook says which",
                name,
            )


def _of_watermark(picture: Json) -> Iterator[dict[str, Any]]:
    unowned = [part["number"] for part in picture["partitions"] if part["worker"] is None]
    if unowned:
        yield _problem(
            BAD,
            "CdrstreamPartitionsUnassigned",
            f"no worker has partition {', '.join(map(str, unowned))}",
            "start one: cdrstream worker",
        )
    away = [one for one in picture["servers"] if one["state"] in (NEVER, AWAY, "stopped")]
    if away and len(away) == len(picture["servers"]):
        yield _problem(
            BAD, "CdrstreamAllSourcesSilent", "all sources are silent", "Kafka, then the network"
        )
    excess = max((part["excess"] or 0.0 for part in picture["partitions"]), default=0.0)
    if excess > WATERMARK_WARN_SECONDS and not unowned:
        worst = max(picture["partitions"], key=lambda part: part["excess"] or 0.0)
        yield _problem(
            BAD if excess > WATERMARK_BAD_SECONDS else WARN,
            "CdrstreamWatermarkStalled",
            f"partition {worst['number']} is {duration(excess)} over the floor: {worst['why']}",
            "look at the problem of that server first",
        )
    marks = [part["watermark"] for part in picture["partitions"]]
    through = picture["visible"]["through"]
    if through is not None and marks and None not in marks:
        behind = min(marks) - through
        if behind > SINK_BEHIND_SECONDS + STALE_SECONDS:
            yield _problem(
                BAD,
                "CdrstreamSinkBehind",
                f"the database is {duration(behind)} behind the workers",
                "locks or a full disk there? events are safe in Kafka",
            )
