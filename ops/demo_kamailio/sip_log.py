"""What a SIPp phone sent and received, read from its own message log (`-trace_msg`).

Owns the log's form: a line of dashes with the time, a line with the direction, the message. Refuses
to judge what was said (`witness`). Logs are bytes: headers may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_ENTRY: Final = re.compile(
    rb"^-{40,} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})\n"
    rb"\w+ message (sent|received)[^\n]*:\n\n",
    re.MULTILINE,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SipMessage:
    """One message as the phone saw it.

    Attributes:
        time_us: When it was sent or received, in microseconds since 1970-01-01 UTC.
        sent: Whether the phone sent it.
        first_line: Request or status line.
        headers: Names in lower case, and values, in the order of the message.
    """

    time_us: int
    sent: bool
    first_line: str
    headers: tuple[tuple[str, bytes], ...]

    @property
    def status(self) -> int:
        """Status of an answer, 0 of a request."""
        words = self.first_line.split(" ", 2)
        return int(words[1]) if words[0] == "SIP/2.0" else 0

    @property
    def reason(self) -> str:
        """Reason phrase of an answer."""
        return self.first_line.split(" ", 2)[2] if self.status else ""

    @property
    def method(self) -> str:
        """The method that it asks for or answers."""
        return self.text("cseq").partition(" ")[2]

    @property
    def cseq(self) -> int:
        """Number of the transaction within its direction."""
        return int(self.text("cseq").partition(" ")[0])

    def header(self, name: str) -> bytes:
        """The first value of a header, empty where there is none."""
        return next((value for key, value in self.headers if key == name), b"")

    def text(self, name: str) -> str:
        """The same as text, for headers that are known to be ASCII."""
        return self.header(name).decode("ascii", "backslashreplace")

    def tag(self, name: str) -> str:
        """The tag of From or To; phones of ours write it last."""
        _, found, tag = self.header(name).rpartition(b";tag=")
        return tag.decode("ascii") if found else ""


def read_log(path: Path) -> list[SipMessage]:
    """All messages of a log, in its order; none where there is no log."""
    return list(parse_log(path.read_bytes())) if path.exists() else []


def parse_log(log: bytes) -> Iterator[SipMessage]:
    """Messages that are whole; times are taken as UTC, which SIPp is started with."""
    entries = list(_ENTRY.finditer(log))
    ends = (*(entry.start() for entry in entries[1:]), len(log))
    for entry, end in zip(entries, ends, strict=False):  # an empty log has an end and no entry
        head, blank, _ = log[entry.end() : end].replace(b"\r\n", b"\n").partition(b"\n\n")
        if not blank:
            continue  # the log ends in the midst of it
        first, *lines = head.split(b"\n")
        yield SipMessage(
            time_us=_time_us(entry[1].decode()),
            sent=entry[2] == b"sent",
            first_line=first.decode("ascii", "backslashreplace"),
            headers=tuple(map(_header, lines)),
        )


def _header(line: bytes) -> tuple[str, bytes]:
    name, _, value = line.partition(b":")
    return name.decode("ascii", "replace").strip().lower(), value.strip()


def _time_us(text: str) -> int:
    since = datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
