"""Why a broker was not got through to, read off the sentences of librdkafka and aiokafka.

Owns which sentence says more than another, its shortening to one line, and what the operator does
about it. Refuses to know clients: it is given text. Reader, worker and commands tell the same.
"""

from __future__ import annotations

import re
from typing import Final

_AUTHORITY: Final = (
    "kafka.ssl_ca_file must be the file of the authority that signed the broker's certificate"
)
_NAME: Final = "kafka.bootstrap_servers must name the broker as its certificate does"
# The first that fits wins; what stands first says more than what librdkafka adds behind it.
_MEANINGS: Final = (
    (
        r"certificate is not valid for|[Hh]ostname mismatch|IP address mismatch",
        f"{_NAME}, and so must the broker's advertised.listeners",
    ),
    (r"certificate has expired|certificate is not yet valid", "give the broker a new certificate"),
    (r"unable to get|self.signed certificate", _AUTHORITY),
    (r"certificate verify failed|could not be verified", f"{_AUTHORITY}; and {_NAME}"),
    (
        r"ssl\.ca\.location|ssl\.(certificate|key)\.location|cafile",
        "kafka.ssl_ca_file and its like must be PEM files that this user may read",
    ),
    (
        r"[Aa]uthentication failed|invalid credentials",
        "check kafka.sasl_username and the password (CDRSTREAM_KAFKA__SASL_PASSWORD)",
    ),
    (
        r"[Uu]nsupported SASL mechanism",
        "kafka.sasl_mechanism must be one that the broker supports",
    ),
    (
        r"SSL handshake failed|wrong version number|security\.protocol",
        "kafka.security_protocol must be that of the broker's listener on this port",
    ),
    (
        r"[Aa]uthorization failed|not authorized",
        "this user lacks a right: cdrstream acls --apply, as a user who may give it",
    ),
)
_LOGGED: Final = re.compile(r"^\w+ \[\S+\] (\[thrd:[^]]*\]: )?")
_PLACE: Final = re.compile(r"^(?:\w+://)?(?P<where>[^\s/]+)/\w+: ")
_NOISE: Final = re.compile(
    r" \((after \d+ms|install ca-certificates)[^)]*\)|, verify that .*?(?= \(|$)|error:\w+:"
)


def advice_for(text: str) -> str:
    """What an operator does about it; empty where the text names nothing to be mended."""
    for pattern, advice in _MEANINGS:
        if re.search(pattern, text):
            return advice
    return ""


def short(text: str) -> str:
    """The sentence in one line, without what only a developer of the client would miss."""
    line = _LOGGED.sub("", " ".join(text.split()))
    place = _PLACE.match(line)
    if place:
        line = f"{place['where']}: {line[place.end() :]}"
    return _NOISE.sub("", line)


def _says_more(text: str, known: str) -> bool:
    """What can be mended before what is only told, and that before that nobody answers."""

    def worth(words: str) -> int:
        return (
            0 if not words else 1 if "brokers are down" in words else 3 if advice_for(words) else 2
        )

    return worth(text) > worth(known)


class Heard:
    """Of all that a client says while it tries to connect, the sentence that says most."""

    def __init__(self) -> None:
        self._text = ""

    def __call__(self, error: object) -> None:
        """As a client's `error_cb`."""
        text = str(getattr(error, "str", lambda: error)())  # KafkaError has its words there
        if _says_more(text, self._text):
            self._text = text

    def forget(self) -> None:
        """It got through: what was in the way is no longer."""
        self._text = ""

    @property
    def reason(self) -> str:
        """The sentence, in one line; empty where nothing was said."""
        return short(self._text)

    @property
    def advice(self) -> str:
        """What to do about it; empty where that is not known."""
        return advice_for(self._text)
