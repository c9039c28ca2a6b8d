"""Structured logs on standard error: an event name and key/values; JSON when not on a terminal.

Owns the set-up of structlog over stdlib logging, so that records of `cdc`, `stream_app` and of
libraries, with what they carry in `extra=`, come out in one form. Refuses to log secrets: whatever
looks like a password in a connection string is replaced, wherever it stands.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from time import monotonic
from typing import Any, Final, Literal, TextIO

import structlog

from ops.redaction import HIDDEN, scrub

_SECRET_KEYS: Final = ("password", "passwd", "secret", "token")
# Libraries that tell at info what only their own developers want to know.
_CHATTY: Final = ("aiokafka", "kafka", "asyncio", "faust", "mode", "aiohttp")

# A client that cannot connect says so several times a second; what says the same is said once.
_REPEAT_SECONDS: Final = 10.0
_REMEMBERED_MAX: Final = 256
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}

Event = MutableMapping[str, Any]


def configure(
    level: str = "info",
    form: Literal["auto", "text", "json"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sends every log record of the process to one stream in one form.

    Args:
        level: Least severity, as `logging` names it in lower case.
        form: `auto` is text on a terminal and JSON elsewhere.
        stream: Standard error by default.
    """
    stream = sys.stderr if stream is None else stream
    as_json = form == "json" or (form == "auto" and not stream.isatty())
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=True)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([structlog.processors.format_exc_info] if as_json else []),
                without_secrets,
                renderer,
            ],
        )
    )
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if root.level > logging.DEBUG:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class Repeats(logging.Filter):
    """Lets a record pass that says something new, or the same again after a while.

    The next one to pass says in `repeated` how many were held back.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        if not isinstance(record.msg, str):  # structlog's: an event of our own, never in a flood
            return True
        extra = tuple((k, str(v)) for k, v in vars(record).items() if k not in _PLAIN)
        key = (record.name, record.levelno, record.getMessage(), extra)
        now = self._clock()
        since, held_back = self._said.pop(key, (-_REPEAT_SECONDS, 0))
        if now - since < _REPEAT_SECONDS:
            self._said[key] = (since, held_back + 1)
            return False
        self._said[key] = (now, 0)
        if len(self._said) > _REMEMBERED_MAX:
            self._said.popitem(last=False)
        if held_back:
            record.repeated = held_back
        return True


def without_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Replaces what is or holds a password, by the name of the key and by its look."""
    for key, value in event.items():
        if any(secret in key.lower() for secret in _SECRET_KEYS):
            event[key] = HIDDEN
        elif isinstance(value, str):
            event[key] = scrub(value)
    return event
