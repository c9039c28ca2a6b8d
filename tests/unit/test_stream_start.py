"""A worker whose broker is away says so before it has given up asking."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from stream_app import worker
from stream_app.settings import WorkerSettings


async def test_a_broker_that_does_not_answer_is_told_once_and_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert worker.BROKER_PATIENCE_SECONDS <= 3
    answers = threading.Event()

    def ensure_topics(_settings: WorkerSettings) -> list[str]:
        assert answers.wait(120)
        return ["made"]

    monkeypatch.setattr(worker, "BROKER_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(worker, "ensure_topics", ensure_topics)
    settings = WorkerSettings(bootstrap_servers="127.0.0.1:1", sink_dsn="dbname=none")
    with caplog.at_level(logging.INFO):
        ready = asyncio.create_task(worker._topics_ready(settings, asyncio.Event()))
        while "waiting_for_broker" not in caplog.messages:
            await asyncio.sleep(0.01)
        answers.set()
        await ready
    assert caplog.messages == ["waiting_for_broker", "topics_created"]
