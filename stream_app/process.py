"""What a worker asks of its process: seldom collecting, few words, an end that does not hang.

Owns the exit codes, and every setting of the interpreter and of others' logs, each with its reason.
Refuses to know what a worker does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from typing import Any, Final

from aiokafka.errors import KafkaError

from stream_app.errors import Stalled, StreamAppError
from stream_app.watchdog import EXIT_STALLED

log = logging.getLogger(__name__)

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_BAD_CONFIGURATION: Final = 2

LEFTOVERS_SECONDS: Final = 0.5  # for closing the loop


def prepare() -> None:
    """Before anything is made."""
    _quiet_frameworks()
    _collect_rarely()
    # The thread that commits gives the interpreter away at each word with database and broker; at
    # the default of 5 ms it waits a third of a second a commit to have it back.
    sys.setswitchinterval(0.001)


def _collect_rarely() -> None:
    """Calls and events hold no cycles: looking for some whenever many are made costs a fifth.

    What asyncio and exceptions leave in circles is little; the worker collects it by the clock, and
    the collector itself only where a million objects have come together before that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 1_000_000)


def _quiet_frameworks() -> None:
    """Faust and its libraries log every state of every service: only what is wrong is ours."""
    ours_of_theirs = ("stream_app.app", "stream_app.batches", "stream_app.table")
    for name in ("faust", "mode", *ours_of_theirs):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    # What passes by itself within a second is an error to aiokafka; what does not, we tell.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # Says the same at every attempt to connect; that the broker is away, we say once.
    logging.getLogger("stream_app.librdkafka").setLevel(logging.CRITICAL)


def hush_leavers() -> None:
    """What Faust and its client say while they are taken down means nothing to anybody."""
    for name in ("faust", "mode", "asyncio", "stream_app.batches", "stream_app.app"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _thread_ended


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    log.debug("thread_ended", extra={"error": repr(args.exc_value)})


def close(runner: asyncio.Runner, code: int) -> None:
    """Closes the loop, and ends the process where that hangs.

    Trap: tasks of Faust and of its client that wait for a broker which is away do not heed their
    cancelling; they hold nothing any more, and an orderly end must not wait for the broker.
    """
    end = threading.Timer(LEFTOVERS_SECONDS, os._exit, (code,))
    end.daemon = True
    end.start()
    runner.close()
    end.cancel()


def exit_code(done: set[asyncio.Task[Any]]) -> int:
    """What the process ends with, by the tasks that have ended; says why."""
    for task in done:
        error = task.exception()
        if error is None:
            continue
        known = isinstance(error, (StreamAppError, KafkaError))
        advice = "report this as a bug"
        if isinstance(error, StreamAppError):
            advice = error.advice
        elif known:
            advice = "check the broker; the supervisor restarts the worker"
        log.error(
            "worker_failed",
            extra={"part": task.get_name(), "error": str(error), "advice": advice},
            exc_info=None if known else error,
        )
        return EXIT_STALLED if isinstance(error, Stalled) else EXIT_FAILED
    return EXIT_DONE
