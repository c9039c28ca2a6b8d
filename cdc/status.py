"""What a reader says about itself, every two seconds, on the compacted status topic.

Owns the record's form. Refuses to judge: dashboard and `status` do.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict
from enum import StrEnum
from importlib.metadata import version

import orjson

from cdc.errors import CdcError
from cdc.lsn import lsn_text
from cdc.metrics import ReaderMetrics

_VERSION = 1
_PROGRAM = version("cdrstream")


class State(StrEnum):
    """What a reader is doing."""

    STARTING = "starting"
    STANDBY = "standby"  # another reader holds the slot
    BACKFILL = "backfill"
    STREAMING = "streaming"
    RETRYING = "retrying"
    FAILED = "failed"  # an operator has to do something
    STOPPED = "stopped"


def status_key(server: str, *, standing_by: bool = False) -> str:
    """The record's key; a standby has one of its own, so as not to talk over the one that reads."""
    if standing_by:
        return f"standby:{server}:{socket.gethostname()}-{os.getpid()}"
    return f"reader:{server}"


def status_message(
    server: str, state: State, metrics: ReaderMetrics, error: CdcError | None
) -> bytes:
    """The record's value."""
    numbers = asdict(metrics)
    for name in ("received_lsn", "confirmed_lsn"):
        numbers[name] = lsn_text(numbers[name]) if numbers[name] else None
    return orjson.dumps(
        {
            "v": _VERSION,
            "role": "reader",
            "version": _PROGRAM,
            "server": server,
            "pid": os.getpid(),
            "time_us": time.time_ns() // 1_000,
            "state": state,
            "last_error": None
            if error is None
            else {
                "kind": type(error).__name__,
                "text": str(error),
                "advice": error.advice,
                "retry": error.retry,
            },
            **numbers,
            "local_offset_us": metrics.local_offset_us,
        }
    )
