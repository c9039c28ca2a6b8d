"""Live pages: one fragment a page and second, rendered once and sent to whoever looks.

Owns the viewers and their queues of one: who is slow gets the newest and misses what is between.
Nothing is rendered for a page that nobody looks at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import orjson

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 1.0
COMMENT_SECONDS: Final = 15.0
RETRY_MS: Final = 3_000


class Live:
    """Viewers by page.

    Args:
        render: A page's fragment and what its charts need, made on the event loop.
        clients_max: More are refused.
    """

    def __init__(self, render: Callable[[str], dict[str, Any]], clients_max: int) -> None:
        self._render = render
        self._clients_max = clients_max
        self._viewers: dict[asyncio.Queue[bytes], str] = {}
        self._stopped = asyncio.Event()

    @property
    def clients(self) -> int:
        """How many look."""
        return len(self._viewers)

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._viewers) >= self._clients_max

    def stop(self) -> None:
        """Lets everybody go, so that the server can end."""
        self._stopped.set()
        for queue in self._viewers:
            _put(queue, b"")

    async def run(self) -> None:
        """Renders and sends until cancelled."""
        while True:
            began = time.monotonic()
            for page in set(self._viewers.values()):
                try:
                    event = self._event(page)
                except Exception:
                    log.exception("page_not_rendered", extra={"page": page})
                    continue
                for queue, wanted in list(self._viewers.items()):
                    if wanted == page:
                        _put(queue, event)
            await asyncio.sleep(max(0.05, EVERY_SECONDS - (time.monotonic() - began)))

    def _event(self, page: str) -> bytes:
        return b"data: " + orjson.dumps(self._render(page)) + b"\n\n"

    async def follow(self, page: str) -> AsyncIterator[bytes]:
        """The stream of server-sent events of one viewer."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._viewers[queue] = page
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            yield self._event(page)
            while not self._stopped.is_set():
                try:
                    event = await asyncio.wait_for(queue.get(), COMMENT_SECONDS)
                except TimeoutError:
                    event = b": still here\n\n"
                if event:
                    yield event
        finally:
            self._viewers.pop(queue, None)


def _put(queue: asyncio.Queue[bytes], event: bytes) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
