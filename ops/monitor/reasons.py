"""Why somebody is late, in words: per partition whom it waits for, per server what it is at.

Owns the sentences. Refuses to decide what late means: `picture` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ops.monitor.facts import Json, Rules
from ops.monitor.words import duration

AWAY: Final = "away"
NEVER: Final = "never"


def say_why(
    partitions: Sequence[dict[str, Any]], servers: Mapping[str, Json], rules: Rules
) -> None:
    """In words, per partition: whom it waits for, by how much, and why."""
    for part in partitions:
        part["why"] = _why(part, servers, rules)


def _why(part: Json, servers: Mapping[str, Json], rules: Rules) -> str:
    if part["worker"] is None:
        return "no worker has it"
    unheard = [one["server"] for one in part["frontiers"] if one["state"] == "never_seen"]
    if unheard:
        return f"waiting for the first heartbeat of {', '.join(unheard)}"
    holder = part["holder"]
    if holder is None:
        return "no server counts"
    waiting = [one for one in part["frontiers"] if one["state"] == "active" and one["at"]]
    if (part["excess"] or 0.0) <= 2 * rules.heartbeat_seconds:
        return "up to date"
    others = [one["at"] for one in waiting if one["server"] != holder]
    own = next((one["at"] for one in waiting if one["server"] == holder), None)
    ahead = None if own is None or not others else max(0.0, min(others) - own)
    if ahead is not None and ahead < 2 * rules.heartbeat_seconds:
        return "all servers are late alike" if len(waiting) > 1 else f"waiting for {holder}"
    text = f"waiting for {holder}"
    if ahead is not None:
        text += f": {duration(ahead)} behind the others"
    reason = reason_of(servers.get(holder))
    text += f", {reason}" if reason else ""
    leader = max((one["at"] for one in waiting), default=None)
    if rules.idle_after_seconds is not None and own is not None and leader is not None:
        left = rules.idle_after_seconds - (leader - own)
        if left > 0 and ahead:
            text += f"; set aside in about {duration(left)}"
    return text


def reason_of(server: Json | None) -> str:
    """Why a server is late, as far as its reader or slot tell; empty where they do not."""
    if server is None:
        return "which is not configured here"
    state = server["state"]
    if state == NEVER:
        return "no reader of it has ever reported"
    if state == AWAY:
        return f"its reader has been away for {duration(server['age'])}"
    if state == "stopped":
        return "its reader was stopped"
    error = server["last_error"]
    if state in ("retrying", "failed") and error:
        return f"its reader cannot read: {error['text']}"
    if server["open_transaction_rows"]:
        return f"inside a transaction of {server['open_transaction_rows']:,} rows so far"
    if state == "backfill":
        return "its reader reads the rows from before the slot"
    if server["kafka_error"]:
        return f"its reader cannot reach Kafka: {server['kafka_error']}"
    if (server["capture_lag"] or 0.0) > 10:
        return f"its reader is catching up, {duration(server['capture_lag'])} behind"
    return "" if state == "streaming" else f"its reader is {state}"
