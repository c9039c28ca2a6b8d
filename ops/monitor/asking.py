"""Asking somebody again and again in the background, and keeping the newest answer.

Owns the rhythm, the threads and the error's words. A few threads ask many, so that fifty servers
take no fifty threads; who does not answer is asked less often, and so holds none of them for long.
An answer that is old is told with its age, never as new.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from ops.monitor.facts import Answer
from ops.redaction import scrub

log = logging.getLogger(__name__)

T = TypeVar("T")
_LEAST_SECONDS: Final = 0.05
_UNWANTED_SECONDS: Final = 0.25  # until it is looked again whether somebody wants to know


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often somebody is asked.

    Attributes:
        seconds: From one question to the next.
        seconds_max: The same of somebody who does not answer, doubling; by default no longer.
        share: Of the time that may go into asking: a question that took long is asked less often.
    """

    seconds: float
    seconds_max: float = 0.0
    share: float = 1.0

    def pause(self, took: float, failures: int) -> float:
        """How long to wait after a question that took so long, the newest `failures` in vain."""
        seconds = self.seconds
        if failures > 1:
            seconds = min(max(seconds, self.seconds_max), seconds * 2.0 ** min(failures - 1, 16))
        return max(_LEAST_SECONDS, seconds - took, took / self.share - took)


class Asker(Generic[T]):
    """Somebody who is asked by `ask`; errors are answers too.

    Args:
        name: For the log.
        ask: The question.
        rhythm: How often.
        is_wanted: Nobody is asked while nobody wants to know.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], T],
        rhythm: Rhythm,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self.is_wanted = is_wanted
        self._ask = ask
        self._rhythm = rhythm
        self._failures = 0
        self.answer: Answer[T] = Answer()
        self.asked = threading.Event()  # at least once

    def once(self) -> float:
        """Asks now, in this thread; how long to wait before the next time."""
        before, now, began = self.answer, time.time(), time.monotonic()
        try:
            value = self._ask()
        except Exception as error:  # noqa: BLE001  whatever it is, it is why nothing is known
            words = " ".join(scrub(str(error)).split())[:300] or _named(error)
            since = before.failing_since if before.error else now
            self.answer = Answer(before.value, before.at, words, since)
            self._failures += 1
            if not before.error:
                log.warning("no_answer", extra={"asked": self.name, "error": words})
        else:
            self.answer = Answer(value, time.time())
            self._failures = 0
        self.asked.set()
        return self._rhythm.pause(time.monotonic() - began, self._failures)


def _named(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


class Askers:
    """Threads that ask all of them, each when it is due."""

    def __init__(self, name: str, askers: Sequence[Asker[Any]], threads: int) -> None:
        self._due: list[tuple[float, int, Asker[Any]]] = [
            (0.0, number, asker) for number, asker in enumerate(askers)
        ]
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"ask {name}", daemon=True)
            for _ in range(min(threads, len(askers)))
        ]

    def start(self) -> None:
        """Begins."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No further question; does not wait for those that are under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            number, asker = taken
            pause = asker.once() if asker.is_wanted() else _UNWANTED_SECONDS
            with self._changed:
                heapq.heappush(self._due, (time.monotonic() + pause, number, asker))
                self._changed.notify()

    def _next(self) -> tuple[int, Asker[Any]] | None:
        """Waits for one who is due; None at the end."""
        with self._changed:
            while not self._stopped:
                if not self._due:
                    self._changed.wait()
                    continue
                wait = self._due[0][0] - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                _, number, asker = heapq.heappop(self._due)
                return number, asker
            return None
