"""Which exchanges a partition remembers: enough to fit every clock, never more than a bound.

Of each pair of servers the newest few, for a step is found by what is new, and of each stretch of
the last half hour the tightest, for a drift is found by what lies far apart. Stretches grow with
the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from callstate.exchanges import Exchange

_SPAN_US: Final = 1_800 * 1_000_000
_STRETCHES_MAX: Final = 600  # over all pairs
_STRETCH_LEAST_US: Final = 10 * 1_000_000
_NEWEST_MAX: Final = 16
_SHARE_EVERY_US: Final = 1_000_000


@dataclass(slots=True)
class _Pair:
    newest: list[Exchange] = field(default_factory=list)
    stretches: dict[int, Exchange] = field(default_factory=dict)
    shared_us: int | None = None
    first_us: int = 0  # of the stretches
    last_us: int = 0


class Evidence:
    """Exchanges by pair of servers."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def add(self, exchange: Exchange) -> bool:
        """Remembers an exchange; False where it is known."""
        pair = self._pairs.get(exchange[:2])
        if pair is None:
            pair = self._pairs[exchange[:2]] = _Pair()
        if exchange in pair.newest:
            return False
        pair.newest.append(exchange)
        if len(pair.newest) > _NEWEST_MAX:
            self._keep_tightest(pair, pair.newest.pop(0))
        return True

    def may_share(self, exchange: Exchange) -> bool:
        """Whether other partitions should hear of it: one of each pair a second is enough."""
        pair = self._pairs[exchange.a, exchange.b]
        if pair.shared_us is not None and abs(exchange.a_us - pair.shared_us) < _SHARE_EVERY_US:
            return False
        pair.shared_us = exchange.a_us
        return True

    def _keep_tightest(self, pair: _Pair, exchange: Exchange) -> None:
        stretch_us = max(_STRETCH_LEAST_US, _SPAN_US * len(self._pairs) // _STRETCHES_MAX)
        place = exchange.a_us // stretch_us * stretch_us
        held = pair.stretches.get(place)
        if held is None or (exchange.round_trip_us, exchange) < (held.round_trip_us, held):
            pair.stretches[place] = exchange
            if held is None:
                pair.first_us, pair.last_us = min(pair.stretches), max(pair.stretches)
        if max(exchange.a_us - pair.first_us, pair.last_us - exchange.a_us) > _SPAN_US:
            for old in [at for at in pair.stretches if abs(exchange.a_us - at) > _SPAN_US]:
                del pair.stretches[old]
            pair.first_us = min(pair.stretches, default=0)
            pair.last_us = max(pair.stretches, default=0)
        while len(pair.stretches) > max(8, _SPAN_US // stretch_us):
            del pair.stretches[min(pair.stretches)]
            pair.first_us = min(pair.stretches)

    def __iter__(self) -> Iterator[Exchange]:
        for pair in self._pairs.values():
            yield from pair.stretches.values()
            yield from pair.newest

    def snapshot(self) -> list[Any]:
        """JSON-able."""
        return [
            [
                *names,
                pair.shared_us,
                [list(exchange) for exchange in pair.newest],
                [[at, list(exchange)] for at, exchange in pair.stretches.items()],
            ]
            for names, pair in self._pairs.items()
        ]

    def restore(self, snapshot: list[Any]) -> None:
        """Takes up where `snapshot` was made."""
        self._pairs = {
            (a, b): _Pair(
                [Exchange._make(exchange) for exchange in newest],
                {at: Exchange._make(exchange) for at, exchange in stretches},
                shared_us,
                min((at for at, _ in stretches), default=0),
                max((at for at, _ in stretches), default=0),
            )
            for a, b, shared_us, newest, stretches in snapshot
        }
