"""What librdkafka says by itself, and where it goes.

Owns the log of clients that a command asks something of: their calls raise what is wrong, in a
line with advice, and what the library would print beside it says the same without. Services have
loggers of their own.
"""

from __future__ import annotations

import logging


def silent_log() -> logging.Logger:
    """A logger that keeps what its client says to itself."""
    log = logging.getLogger("cdrstream.librdkafka")
    log.setLevel(logging.CRITICAL)
    return log
