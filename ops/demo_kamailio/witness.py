"""What a call's record must say, by the word of the caller's own log.

Owns the reading of a call from the messages that its caller sent and received. It knows nothing of
proxies' rows or of our rules but what the columns of `cdrs` mean, so that it cannot repeat an error
of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from callstate.events import format_time, parse_time_us
from ops.demo_kamailio.sip_log import SipMessage

_TIMEOUT: Final = (408, "Request Timeout")


def truth_of(
    name: str, messages: Sequence[SipMessage], *, end_is_heard: bool = True
) -> dict[str, Any]:
    """One call as an object of `truth.jsonl`, for `ops.simulation.score`.

    Args:
        name: What the call is called in reports.
        messages: The caller's log, from the first INVITE on.
        end_is_heard: False where no proxy could hear of the end that the caller tells.

    Raises:
        ValueError: The caller's log holds no INVITE.
    """
    invites = [one for one in messages if one.sent and one.method == "INVITE" and not one.status]
    if not invites:
        raise ValueError("it holds no INVITE")
    first = invites[0]
    cdr: dict[str, Any] = {
        "call_id": first.text("call-id"),
        "from_tag": first.tag("from"),
        "to_tag": "",
        "caller_aor": as_stored(first.header("from").rpartition(b";tag=")[0]),
        "callee_aor": as_stored(first.header("to")),
        "start_time": format_time(first.time_us),
        "connect_time": None,
        "end_time": None,
        "failure_status": None,
        "failure_reason": None,
        "reference": first.text("references"),
        "caller_contact": _without_parameters(first.text("contact")),
        "callee_contact": None,
        "callee_route": None,
        "caller_internal": _has_proved_himself(messages),
    }
    finals = [
        one for one in messages if not one.sent and one.method == "INVITE" and one.status >= 200
    ]
    answers = {one.tag("to"): one for one in reversed(finals) if one.status < 300}
    if answers:
        legs = [_leg(messages, answer, end_is_heard=end_is_heard) for answer in answers.values()]
        best: dict[str, Any] = max(legs, key=_talked_us)
        cdr |= best
    else:
        cdr |= _refused([one for one in finals if one.status != 407][-1:])
    return {"call_id": cdr["call_id"], "scenario": name, "expect": "cdr", "cdr": cdr}


def answered_after_seconds(messages: Sequence[SipMessage]) -> float | None:
    """How long the caller waited for the answer to the first INVITE; None where none came."""
    told = [one for one in messages if one.method == "INVITE"]
    answer = next((one for one in told if 200 <= one.status < 300), None)
    return None if answer is None else (answer.time_us - told[0].time_us) / 1_000_000


def as_stored(header: bytes) -> str:
    """A header as the database keeps it: what is not UTF-8 byte by byte, as PostgreSQL escapes."""
    try:
        return header.decode()
    except UnicodeDecodeError:
        return "".join(
            "\\\\" if byte == ord("\\") else chr(byte) if 0 < byte < 128 else f"\\{byte:03o}"
            for byte in header
        )


def _leg(
    messages: Sequence[SipMessage], answer: SipMessage, *, end_is_heard: bool
) -> dict[str, Any]:
    """One of the dialogs of the call, as if it were the call."""
    tags = {answer.tag("from"), answer.tag("to")}
    inside = [
        one for one in messages if not one.status and {one.tag("from"), one.tag("to")} == tags
    ]
    end = next((one for one in inside if one.method == "BYE"), None) if end_is_heard else None
    transferred = any(one.method == "REFER" for one in inside)
    forgotten = next((one for one in messages if _is_lost(one, answer)), None)
    if end is None and forgotten is not None:
        return {
            "to_tag": answer.tag("to"),
            "connect_time": format_time(answer.time_us),
            "callee_contact": _without_parameters(answer.text("contact")),
            **_refused([forgotten]),
        }
    return {
        "to_tag": answer.tag("to"),
        "connect_time": format_time(answer.time_us),
        "end_time": None if end is None else format_time(end.time_us),
        "callee_contact": _without_parameters(answer.text("contact")),
        "termination": "U" if end is None else "T" if transferred else "C",
    }


def _is_lost(message: SipMessage, answer: SipMessage) -> bool:
    """Whether the other side knows the dialog no more (RFC 3261 section 12.2.1.2)."""
    return message.status in (408, 481) and message.cseq > answer.cseq and not message.sent


def _talked_us(leg: Mapping[str, Any]) -> int:
    """How long a dialog was; one without an end is the shortest."""
    if leg["end_time"] is None:
        return -1
    return parse_time_us(leg["end_time"]) - parse_time_us(leg["connect_time"])


def _refused(last: Sequence[SipMessage]) -> dict[str, Any]:
    """The last refusal; without one the caller was left ringing. A 407 is never told."""
    if not last:
        status, reason = _TIMEOUT
        return {"failure_status": status, "failure_reason": reason, "termination": "F"}
    refusal = last[0]
    return {
        # a proxy that refuses makes up the tag when the row is written already
        "to_tag": None if refusal.header("server") else refusal.tag("to"),
        "end_time": format_time(refusal.time_us),
        "failure_status": refusal.status,
        "failure_reason": refusal.reason,
        "termination": "A" if refusal.status == 487 else "F",
    }


def _has_proved_himself(messages: Iterable[SipMessage]) -> bool:
    """Whether a proxy asked who he was and then let him through."""
    statuses = [one.status for one in messages if not one.sent and one.method == "INVITE"]
    last_challenge = max((n for n, status in enumerate(statuses) if status == 407), default=None)
    return last_challenge is not None and any(s != 407 for s in statuses[last_challenge + 1 :])


def _without_parameters(contact: str) -> str | None:
    """`<sip:user@host:port>` of the plain Contact headers that our phones write."""
    return contact.partition(";")[0].removesuffix(">") + ">" if contact else None
