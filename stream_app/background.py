"""A daemon thread that does one blocking thing after another for an event loop.

Owns the thread. An executor of the standard library is joined when the interpreter ends, so that a
database that hangs would keep a worker from ending in time; this one is left behind.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class BackgroundThread:
    """Runs functions in order, off the event loop. At most a handful wait at one time."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        """The result of `job`, or its exception. Cancelled, it runs to its end all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((job, future, loop))
        return await future

    def stop(self) -> None:
        """Ends the thread after what waits; does not wait for it."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            next_job = self._jobs.get()
            if next_job is None:
                return
            job, future, loop = next_job
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001  handed to who waits
                _tell(loop, future, error=error)
            else:
                _tell(loop, future, result)


def _tell(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    result: Any = None,
    error: BaseException | None = None,
) -> None:
    def settle() -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
