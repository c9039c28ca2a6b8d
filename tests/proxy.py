"""A TCP proxy on loopback that breaks connections the way networks do.

Owns the ways: cut, silence, delay, and an end in the middle of a message. Refuses to know what is
said through it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK_BYTES = 16_384


class Proxy:
    """Passes bytes on to `127.0.0.1:target` until told otherwise; threadsafe."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_seconds = 0.0
        self._bytes_left: int | None = None
        self._refusing = False
        self.port = 0
        self.bytes_passed = 0
        self.connections = 0

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Listens until the block ends."""
        listening = threading.Event()
        thread = threading.Thread(target=self._run, args=(listening,))
        thread.start()
        assert listening.wait(60)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def cut(self) -> None:
        """Ends every connection at once; new ones are let through."""
        self._do(self._abort_all)

    def refuse(self, refusing: bool) -> None:
        """Ends every connection, and every new one, until told to stop that."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def silence(self, silent: bool) -> None:
        """Connections stay open and nothing comes through, in either direction."""
        self._do(self._flowing.clear if silent else self._flowing.set)

    def delay(self, seconds: float) -> None:
        """Every piece takes so much longer."""
        self._delay_seconds = seconds

    def truncate_after(self, size_bytes: int) -> None:
        """Lets so many bytes more through and cuts then, wherever that is; once."""
        self._bytes_left = size_bytes

    def _do(self, call: object) -> None:
        assert callable(call)
        self._loop.call_soon_threadsafe(call)

    def _run(self, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, "127.0.0.1", self.port)
        )
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        self._loop.run_forever()
        server.close()
        self._abort_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # transports close in the next round
        self._loop.close()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            there, thither = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, thither}
        try:
            await asyncio.gather(self._pass(reader, thither), self._pass(there, writer))
        finally:
            for each in (writer, thither):
                each.transport.abort()
                self._writers.discard(each)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                if self._bytes_left is not None:
                    data, self._bytes_left = (
                        data[: self._bytes_left],
                        self._bytes_left - len(data),
                    )
                    if self._bytes_left <= 0:
                        self._bytes_left = None
                        writer.write(data)
                        await writer.drain()
                        self._abort_all()
                        return
                writer.write(data)
                await writer.drain()
                self.bytes_passed += len(data)
        writer.transport.abort()
