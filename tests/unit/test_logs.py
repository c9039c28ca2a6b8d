"""Logs: one form for all records, no secrets, no floods."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from ops import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_of_logging_and_one_of_structlog_look_alike():
    stream = io.StringIO()
    logs.configure(stream=stream)
    logging.getLogger("cdc.reader").info("streaming", extra={"server": "a", "lsn": "0/1"})
    structlog.get_logger("ops").info("streaming", server="a", lsn="0/1")
    first, second = lines(stream)
    assert first["event"] == second["event"] == "streaming"
    assert first["server"] == second["server"] == "a"
    assert set(first) - {"logger"} == set(second) - {"logger"}


def test_a_terminal_gets_text():
    stream = Terminal()
    logs.configure(stream=stream)
    logging.getLogger("x").warning("slot_lost", extra={"server": "a"})
    assert "slot_lost" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_secrets_are_replaced_wherever_they_stand():
    stream = io.StringIO()
    logs.configure(stream=stream)
    logging.getLogger("x").error(
        "cannot connect to postgresql://u:geheim@h/db",
        extra={"dsn": "host=x password='geheim geheim'", "sasl_password": "geheim"},
    )
    try:
        raise ValueError("host=x password=geheim")  # noqa: TRY301
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "geheim" not in stream.getvalue()
    assert "********" in stream.getvalue()


def test_the_level_holds_and_libraries_are_quieter():
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    logging.getLogger("cdc").debug("no")
    logging.getLogger("faust.app").info("no")
    logging.getLogger("cdc").info("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_a_header_cannot_forge_a_line():
    stream = io.StringIO()
    logs.configure(stream=stream)
    logging.getLogger("x").info("late", extra={"call_id": 'a\n{"event": "forged"}\x1b[2J'})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_what_says_the_same_is_said_once_in_a_while():
    now = 100.0
    repeats = logs.Repeats(lambda: now)

    def passes(message: str, **extra: object) -> logging.LogRecord | None:
        record = logging.makeLogRecord({"msg": message, "name": "x", "levelno": 30, **extra})
        return record if repeats.filter(record) else None

    assert passes("down", server="a")
    assert not passes("down", server="a")
    assert passes("down", server="b")
    assert not passes("down", server="a")
    now = 111.0
    again = passes("down", server="a")
    assert again is not None
    assert again.repeated == 2  # type: ignore[attr-defined]


def test_what_is_remembered_is_bounded():
    repeats = logs.Repeats(lambda: 1.0)
    for number in range(2_000):
        repeats.filter(logging.makeLogRecord({"msg": f"m{number}", "name": "x"}))
    assert len(repeats._said) <= 256
