"""What librdkafka says by itself, and where it goes.

Owns the log of clients that a command asks something of: their calls raise what is wrong, in a
line with advice, and what the library would print beside it says the same without. Services have
loggers of their own.
"""

from __future__ import annotations

import logging
from typing import Protocol

from callstate.broker_words import Heard


class Clients(Protocol):
    """Whoever knows how clients get to the broker: the configuration, and what is made of it."""

    def client_properties(self) -> dict[str, str | int | bool]:
        """The properties that every client gets, secrets in the clear."""

    def topic(self, name: str) -> str:
        """The whole name of a topic."""


def silent_log() -> logging.Logger:
    """A logger that keeps what its client says to itself."""
    log = logging.getLogger("cdrstream.librdkafka")
    log.setLevel(logging.CRITICAL)
    return log


def hearing_log(heard: Heard) -> logging.Logger:
    """A logger that hands on what its client says, and prints nothing."""
    log = logging.Logger("cdrstream.librdkafka.heard")  # nobody else's: it goes with its client
    handler = logging.Handler()
    # What is recommended about settings is logged too: it is no reason.
    handler.addFilter(lambda record: record.getMessage().startswith("FAIL "))
    handler.emit = lambda record: heard(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    return log
