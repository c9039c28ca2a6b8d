"""Several readers in one process: none ends unseen, whatever it dies of."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from cdc import reader as readers
from cdc.errors import ReaderBroken, Retry
from cdc.reader import ServerReader, run_reader, run_readers
from cdc.settings import ReaderSettings
from cdc.status import State


def settings(server: str) -> ReaderSettings:
    return ReaderSettings(
        server=server,
        dsn="",
        kafka={"bootstrap.servers": "127.0.0.1:1", "log_level": 0},
        manual_retry_seconds=0.01,
    )


class Sessions:
    """Takes the place of `Session`: a server's first one meets what nobody has thought of."""

    def __init__(self, broken: str) -> None:
        self.begun: Counter[str] = Counter()
        self._broken = broken

    def __call__(self, settings: ReaderSettings, *_parts: object) -> Sessions:
        self._server = settings.server
        return self

    async def run(self, stop: asyncio.Event) -> None:
        self.begun[self._server] += 1
        if self._server == self._broken and self.begun[self._server] == 1:
            raise TypeError("nobody has thought of this")
        await stop.wait()


async def test_a_reader_that_breaks_is_told_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions("b")
    monkeypatch.setattr(readers, "Session", sessions)
    made: list[ServerReader] = []
    stop = asyncio.Event()
    running = asyncio.ensure_future(run_readers([settings("a"), settings("b")], stop, made.append))
    while sessions.begun["b"] < 2:
        assert not running.done()
        await asyncio.sleep(0.01)
    stop.set()
    await running
    assert sessions.begun == {"a": 1, "b": 2}
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in told] == ["reader_broken", "reader_failed"]
    assert told[0].exc_info is not None
    first = next(each for each in made if each.settings.server == "b")
    assert first.state is State.FAILED
    assert "TypeError: nobody has thought of this" in str(first.last_error)
    assert list(first.troubles) == ["ReaderBroken"]


async def test_a_reader_that_is_alone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "Session", Sessions("a"))
    with pytest.raises(ReaderBroken) as told:
        await run_reader(settings("a"), asyncio.Event())
    assert told.value.retry is Retry.MANUAL
    assert isinstance(told.value.__cause__, TypeError)
