"""What is played: the proxies' clocks, the phones, and every call.

Owns all numbers and names. Refuses to start anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ops.demo.plan import PARTITIONS, PROBE_SECONDS

CLOCKS: Final = {"a": None, "b": "-3s"}  # of a proxy and its PostgreSQL: they share a machine
REFERENCE: Final = "a"  # also holds the CDRs
TOLERANCE_MS: Final = 500.0  # between what a caller and what a proxy calls the same moment
MAX_RINGING_SECONDS: Final = 6.0
FAILED_WAIT_SECONDS: Final = 4.0
MAX_CALL_SECONDS: Final = 12.0
LATENESS_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 0.3  # how long phones ring
NOWHERE: Final = "nowhere"
DEAD: Final = "dead"  # a user whose phone is registered and gone
HALF_DEAD: Final = "half-dead"  # one of his two phones is
FORWARDS: Final = "forwards"  # to the first phone's user: his calls come by the proxy twice
SPREAD: Final = ("spread", "spread-rings")  # proxy a also asks proxy b, whose phone is busy

_HOSTILE: Final = (
    '"Robert\'); DROP TABLE call_state_events;-- \\" $(var{s.sql}) $ru %s %n ${x} \u00fc\u4e2d'
    "\" <sip:o'brien'||pg_sleep(9)||'@example.com>"
)
_LATIN_1: Final = b"\"J\xfcrgen 'O' \\\\ \xff\" <sip:juergen@example.com>"


@dataclass(frozen=True, slots=True)
class Phone:
    """Phones that behave alike: a scenario file, and the users that are registered there."""

    scenario: str
    users: tuple[str, ...]
    seconds: float = ANSWER_SECONDS
    proxies: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call of one caller.

    Attributes:
        name: Its name, and the beginning of its Call-ID.
        scenario: File of what the caller does.
        user: Who is called.
        proxy: The proxy that the caller sends to.
        seconds: How long each pause of the scenario is.
        caller: The From header, without tag.
        extra: A header line of the INVITE.
        other: Where the BYE is sent instead, if elsewhere: a proxy, or `NOWHERE`.
        keys: More words of the scenario.
        password: What a member proves to be one with.
        end_is_heard: Whether any proxy hears of the end.
        is_cut: Whether the caller gives up at the end of its patience, by plan.
    """

    name: str
    scenario: str
    user: str
    proxy: str = "a"
    seconds: float = 1.0
    caller: bytes = b'"Caller" <sip:caller@example.com>'
    extra: str = "Subject: a call"
    other: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    password: str = ""
    end_is_heard: bool = True
    is_cut: bool = False

    @property
    def call_id(self) -> str:
        """Its Call-ID."""
        return f"{self.name}@phones.example.com"


PHONES: Final = (
    Phone("phone_answers", ("answers", "both", "twice", "third", "spread")),
    Phone("phone_answers", ("far",), proxies=("b",)),
    Phone("phone_too_late", ("twice",)),
    Phone("phone_forgets", ("forgets",)),
    Phone("phone_rings", ("redial",), proxies=("b",)),
    Phone("phone_answers", ("redial",), proxies=("a",)),
    Phone("phone_busy", ("busy", HALF_DEAD)),
    Phone("phone_rings", ("rings", "both", "spread-rings")),
    Phone("phone_hangs_up", ("hangs-up",), seconds=1.0),
    Phone("phone_transfers", ("transfers",), seconds=0.6),
    Phone("phone_challenges", ("challenges",)),
)

_MEMBER: Final = b"<sip:member1@example.com>"
_REPLACES: Final = "consulting%40phones.example.com%3Bto-tag%3D1%3Bfrom-tag%3D2"

# All at once; the database is there, and so are both proxies.
CALLS: Final = (
    PlannedCall("answered", "call_talk", "answers"),
    PlannedCall("answered-other-clock", "call_talk", "answers", proxy="b"),
    PlannedCall("two-proxies", "call_talk", "far"),
    PlannedCall("busy", "call_refused", "busy"),
    PlannedCall("unknown-user", "call_refused", "nobody"),
    PlannedCall("phone-dead", "call_refused", DEAD),
    PlannedCall("forked-busy-and-dead", "call_refused", HALF_DEAD),
    PlannedCall("forwarded", "call_talk", FORWARDS),
    PlannedCall("cancelled", "call_cancel", "rings"),
    PlannedCall("forked", "call_talk", "both"),
    PlannedCall("forked-other-clock", "call_talk", "both", proxy="b"),
    PlannedCall("forked-over-both", "call_talk", "spread"),
    PlannedCall("forked-over-both-cancelled", "call_cancel", "spread-rings"),
    PlannedCall("two-answers", "call_two_answers", "twice"),
    PlannedCall("callee-hangs-up", "call_until_bye", "hangs-up"),
    PlannedCall("held", "call_hold", "answers", seconds=0.6),
    PlannedCall("forgotten", "call_forgotten", "forgets", seconds=0.6),
    PlannedCall(
        "transferring",
        "call_transfer",
        "answers",
        seconds=0.6,
        keys={"refer_to": "<sip:third@example.com>"},
    ),
    PlannedCall(
        "transferred",
        "call_talk",
        "third",
        extra="References: transferring@phones.example.com;rel=refer",
    ),
    PlannedCall("transferred-by-callee", "call_until_bye", "transfers"),
    PlannedCall("consulting", "call_until_bye", "hangs-up"),
    PlannedCall(
        "transferring-consulted",
        "call_transfer",
        "answers",
        keys={"refer_to": f"<sip:third@example.com?Replaces={_REPLACES}>"},
    ),
    PlannedCall(
        "replacing",
        "call_talk",
        "third",
        extra="Replaces: consulting@phones.example.com;to-tag=1;from-tag=2",
    ),
    PlannedCall(
        "proved-to-the-proxy",
        "call_challenged",
        "answers",
        caller=_MEMBER,
        password="secret-of-member1",  # noqa: S106  of a demo
    ),
    PlannedCall(
        "proved-to-the-phone",
        "call_challenged",
        "challenges",
        password="secret-of-member1",  # noqa: S106
    ),
    PlannedCall("not-proved", "call_not_proved", "answers", caller=_MEMBER, password="wrong"),  # noqa: S106
    PlannedCall("failed-over", "call_bye_elsewhere", "answers", other="b"),
    PlannedCall("failed-back", "call_bye_elsewhere", "answers", proxy="b", other="a"),
    PlannedCall("bye-lost", "call_bye_lost", "answers", other=NOWHERE, end_is_heard=False),
    PlannedCall("hostile", "call_talk", "answers", caller=_HOSTILE.encode()),
    PlannedCall("hostile-bytes", "call_talk", "answers", caller=_LATIN_1),
)

# While the PostgreSQL of proxy b is away, from the first INVITE to the last BYE.
CALL_WITHOUT_DATABASE: Final = PlannedCall("database-away", "call_talk", "answers", proxy="b")

# While proxy b is killed.
CALLS_KILLED: Final = (
    PlannedCall(
        "killed", "call_bye_lost", "answers", "b", seconds=6.0, other="b", end_is_heard=False
    ),
    PlannedCall("killed-failed-over", "call_bye_elsewhere", "answers", "b", seconds=6.0, other="a"),
    PlannedCall("killed-ringing", "call_unanswered", "rings", "b", is_cut=True),
    PlannedCall("killed-redialled", "call_redial", "redial", "b", seconds=2.0, other="a"),
)
CALL_AFTER_RESTART: Final = PlannedCall("after-restart", "call_talk", "answers", proxy="b")
ALL_CALLS: Final = (*CALLS, CALL_WITHOUT_DATABASE, *CALLS_KILLED, CALL_AFTER_RESTART)


def config_text(bootstrap: str, dsns: Mapping[str, str], sink_dsn: str) -> str:
    """The configuration file that readers and workers read."""
    lines = ["[kafka]", f'bootstrap_servers = "{bootstrap}"', f"partitions = {PARTITIONS}"]
    for name, dsn in dsns.items():
        lines += ["", "[[servers]]", f'name = "{name}"', f'dsn = "{dsn}"']
    lines += [
        *("", "[sink]", f'dsn = "{sink_dsn}"'),
        *("", "[clock]", f"probe_interval_seconds = {PROBE_SECONDS}"),
        *("", "[resolution]"),
        f"allowed_lateness_seconds = {LATENESS_SECONDS}",
        f"max_ringing_seconds = {MAX_RINGING_SECONDS}",
        f"failed_wait_seconds = {FAILED_WAIT_SECONDS}",
        f"max_call_seconds = {MAX_CALL_SECONDS}",
    ]
    return "\n".join(lines) + "\n"
