"""The calls of one partition while it is replayed.

Owns what is remembered of calls that were forgotten: their hashes, so that a call which comes up
again is known to be one (a *returning* call) and is looked at a second time as a whole. The live
run asks the database then; a replay must not depend on what the database holds.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from callstate.call import CallState
from callstate.held_calls import deadlines_of

_FIRST_SIZE: Final = 1 << 12


class HashSet:
    """Hashes of texts, eight bytes each in a table that is never more than half full.

    Exact but for two texts of one 64-bit hash; a Python set would take eight times the memory.
    """

    def __init__(self) -> None:
        self._table = array("q", bytes(8 * _FIRST_SIZE))
        self._mask = _FIRST_SIZE - 1
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        value = hash(text) or 1
        table, mask = self._table, self._mask
        place = value & mask
        while True:
            held = table[place]
            if held == value:
                return True
            if not held:
                return False
            place = (place + 1) & mask

    def add(self, text: str) -> None:
        """Remembers a text."""
        if self._put(hash(text) or 1):
            self._count += 1
            if self._count * 2 > self._mask:
                self._grow()

    def _put(self, value: int) -> bool:
        table, mask = self._table, self._mask
        place = value & mask
        while table[place]:
            if table[place] == value:
                return False
            place = (place + 1) & mask
        table[place] = value
        return True

    def _grow(self) -> None:
        old = self._table
        size = 2 * (self._mask + 1)
        self._table, self._mask = array("q", bytes(8 * size)), size - 1
        for value in old:
            if value:
                self._put(value)


class ReplayStore:
    """A `CallStore` in memory.

    Calls that are over are let go early where there are many, in the order in which they were told:
    what comes to one of them later makes it a returning call, as after any forgetting.

    Attributes:
        returning: Calls that came up again after they were forgotten.
    """

    def __init__(self, keep: Collection[str] = (), over_max: int = 1_000) -> None:
        """`keep`: calls that are never forgotten; `over_max`: of those that are over and held."""
        self._calls: dict[str, CallState] = {}
        self._keep = keep
        self._over: deque[str] = deque()
        self._over_max = over_max
        self._forgotten = HashSet()
        self.returning: set[str] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, call_id: str) -> CallState | None:
        """The call's state; None for one that is new or was forgotten."""
        state = self._calls.get(call_id)
        if state is None and call_id in self._forgotten:
            self.returning.add(call_id)
        return state

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state."""
        self._calls[call_id] = state

    def delete(self, call_id: str) -> None:
        """Forgets a call, unless it is one to keep."""
        if call_id in self._keep:
            return
        # Also one that was never put: what begins and ends within one batch is not.
        self._calls.pop(call_id, None)
        self._forgotten.add(call_id)

    def told(self, call_ids: Iterable[str]) -> None:
        """These calls were told just now; to be called between batches."""
        over = self._over
        over.extend(call_ids)
        while len(over) > self._over_max:
            call_id = over.popleft()
            state = self._calls.get(call_id)
            if state is not None and state.closed and not state.dirty:
                self.delete(call_id)

    def items(self) -> Iterable[tuple[str, CallState]]:
        """All calls that are held."""
        return self._calls.items()

    def deadline(self, call_id: str) -> int | None:
        """When the call is looked at next."""
        state = self._calls.get(call_id)
        return None if state is None else state.deadline_us

    def deadlines(self, before_us: int) -> Iterable[tuple[str, int]]:
        """When calls are looked at next."""
        return deadlines_of(self.items(), before_us)

    def forgot(self, call_ids: Iterable[str]) -> None:
        """After a restart: these were told before, and are not held any more."""
        for call_id in call_ids:
            if call_id not in self._calls:
                self._forgotten.add(call_id)
