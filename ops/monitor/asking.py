"""Asking somebody again and again in a thread of its own, and keeping the newest answer.

Owns the rhythm and the error's words. Somebody slow keeps nobody else waiting, and an answer that
is old is told with its age, never as new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ops.monitor.facts import Answer
from ops.redaction import scrub

log = logging.getLogger(__name__)

T = TypeVar("T")


class Asker(Generic[T]):
    """Calls `ask` every `seconds`; errors are answers too."""

    def __init__(self, name: str, ask: Callable[[], T], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._stop = threading.Event()
        self.answer: Answer[T] = Answer()
        self.asked = threading.Event()  # at least once
        self._thread = threading.Thread(target=self._run, name=f"ask {name}", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """No further question; does not wait for one that is under way."""
        self._stop.set()

    def once(self) -> None:
        """Asks now, in this thread."""
        before, now = self.answer, time.time()
        try:
            value = self._ask()
        except Exception as error:  # noqa: BLE001  whatever it is, it is why nothing is known
            words = " ".join(scrub(str(error)).split())[:300] or type(error).__name__
            since = before.failing_since if before.error else now
            self.answer = Answer(before.value, before.at, words, since)
            if not before.error:
                log.warning("no_answer", extra={"asked": self._thread.name, "error": words})
        else:
            self.answer = Answer(value, time.time())
        self.asked.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.once()
            self._stop.wait(max(0.05, self._seconds - (time.monotonic() - began)))
