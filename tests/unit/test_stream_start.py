"""A worker whose broker is away says so before it has given up asking."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from stream_app import topics, worker
from stream_app.errors import BrokerUnavailable
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


async def test_brokers_that_are_there_and_not_ready_are_told_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After "the broker does not answer": else the reason why it lasts would never be said."""
    errors = [BrokerUnavailable("no answer"), topics._not_yet("topic x cannot be created")]

    def ensure_topics(_settings: WorkerSettings) -> list[str]:
        raise errors.pop(0) if len(errors) > 1 else errors[0]

    monkeypatch.setattr(worker, "ensure_topics", ensure_topics)
    settings, stop = WorkerSettings(bootstrap_servers="127.0.0.1:1", sink_dsn="x"), asyncio.Event()
    waiting = asyncio.create_task(worker._topics_ready(settings, stop))
    while len(caplog.records) < 2:
        assert not waiting.done()
        await asyncio.sleep(0.01)
    stop.set()
    await waiting
    assert [vars(each)["error"] for each in caplog.records] == [
        "no answer",
        "topic x cannot be created",
    ]
