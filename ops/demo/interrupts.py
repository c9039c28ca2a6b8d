"""What ends a demo, and that it never ends between starting a process and knowing of it.

Owns the signals: Ctrl-C, SIGTERM and SIGHUP unwind the demo, so that all is stopped on the way. One
that comes while something is being started waits until that is written down where it will be found.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupts:
    """Signals reach a process as a whole, so what waits of them is one thing too."""

    held = 0
    came = False


@contextmanager
def terminates() -> Iterator[None]:
    """Every signal that ends a demo raises `KeyboardInterrupt`; one that is ignored stays so."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def held_back() -> Iterator[None]:
    """An interrupt that comes meanwhile is raised at the end. Keep it short."""
    _Interrupts.held += 1
    try:
        yield
    finally:
        _Interrupts.held -= 1
        if _Interrupts.came and not _Interrupts.held:
            _Interrupts.came = False
            raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if _Interrupts.held:
        _Interrupts.came = True
    else:
        raise KeyboardInterrupt
