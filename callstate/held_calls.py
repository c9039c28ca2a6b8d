"""The calls of one partition: where they live, which are in hand, when each is looked at next.

Owns the protocol of a store, the calls that are being changed since the last `put_back`, and the
timers. Refuses to know what a call is looked at for: that is `processor`.

Timers are in the calls' own states, so that a store which comes back brings them along; only those
that are due soon are in a heap, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Final, Protocol

from callstate.call import CallState

_NEVER: Final = -(2**63)  # before all times
# How far timers are looked up ahead. Looking costs a microsecond a call: at 1,000 events/s, with
# the told calls of two hours, 1.4 s in a quarter of an hour.
_NEAR_FOR_US: Final = 900 * 1_000_000


class CallStore(Protocol):
    """Where the calls of one partition live: a dict here, a Faust table in the stream app.

    The processor `get`s a call once in a batch, keeps it, changes it, and `put`s it once at the
    end of the batch, so a store may encode on `put` and decode on `get`.
    """

    def get(self, call_id: str) -> CallState | None:
        """The call's state, or None."""

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state that is new or changed."""

    def delete(self, call_id: str) -> None:
        """Forgets a call; one that is not there is no error."""

    def items(self) -> Iterable[tuple[str, CallState]]:
        """All calls, in any order; a state that is changed is to be `put`."""

    def deadline(self, call_id: str) -> int | None:
        """The `deadline_us` of a call; None where there is no such call, too."""

    def deadlines(self, before_us: int) -> Iterable[tuple[str, int]]:
        """The `deadline_us` of all calls that have one before that time, in any order."""


class DictStore(dict[str, CallState]):
    """Calls in memory, for files, simulation and tests."""

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state."""
        self[call_id] = state

    def delete(self, call_id: str) -> None:
        """Forgets a call."""
        self.pop(call_id, None)

    def deadline(self, call_id: str) -> int | None:
        """When the call is looked at next."""
        state = self.get(call_id)
        return None if state is None else state.deadline_us

    def deadlines(self, before_us: int) -> Iterable[tuple[str, int]]:
        """When calls are looked at next."""
        return deadlines_of(self.items(), before_us)


def deadlines_of(
    calls: Iterable[tuple[str, CallState]], before_us: int
) -> Iterator[tuple[str, int]]:
    """What `CallStore.deadlines` tells, from the calls themselves."""
    for call_id, state in calls:
        due_us = state.deadline_us
        if due_us is not None and due_us < before_us:
            yield call_id, due_us


class HeldCalls:
    """The calls of one partition while its records are fed.

    Attributes:
        in_hand: Calls that may have been changed since the last `put_back`.
    """

    def __init__(self, store: CallStore) -> None:
        self.in_hand: dict[str, CallState] = {}
        self._store = store
        self._timers: list[tuple[int, str]] = []  # a heap of those that are due before `_near_us`
        self._near_us = _NEVER

    # -- calls ---------------------------------------------------------------------------------

    def take(self, call_id: str) -> CallState:
        """A call to be changed; a new one where there is none."""
        state = self.in_hand.get(call_id)
        if state is None:
            state = self._store.get(call_id) or CallState()
            self.in_hand[call_id] = state
        return state

    def take_where(self, chosen: Callable[[CallState], bool]) -> list[tuple[str, CallState]]:
        """The calls of which that is so, to be changed, in the order of Call-IDs."""
        found = sorted((held for held in self.all() if chosen(held[1])), key=itemgetter(0))
        self.in_hand.update(found)
        return found

    def all(self) -> Iterator[tuple[str, CallState]]:
        """Every call as it stands now, one at a time: a store may hold millions, encoded."""
        in_hand = self.in_hand
        for call_id, state in self._store.items():
            if call_id not in in_hand:
                yield call_id, state
        yield from in_hand.items()

    def add(self, call_id: str, state: CallState) -> None:
        """Keeps a call that was made elsewhere."""
        self._store.put(call_id, state)

    def forget(self, call_id: str) -> None:
        """Deletes a call; one that is not there is no error."""
        self.in_hand.pop(call_id, None)
        self._store.delete(call_id)

    def put_back(self) -> None:
        """Puts what was taken into the store."""
        for call_id, state in self.in_hand.items():
            self._store.put(call_id, state)
        self.in_hand.clear()

    # -- timers --------------------------------------------------------------------------------

    def set_timer(self, call_id: str, state: CallState, due_us: int) -> None:
        """When the call is looked at next, in the place of what was set before."""
        if due_us < self._near_us and due_us != state.deadline_us:
            heapq.heappush(self._timers, (due_us, call_id))
        state.deadline_us = due_us

    def look_ahead(self, now_us: int | None) -> None:
        """The timers up to a time, from the calls: those far ahead are only in the calls' states.

        A told call is forgotten in hours, and one that is answered closed in hours: most of these
        end long before. A heap of all would be most of the memory that a million calls take.
        """
        near_us = _NEVER if now_us is None else now_us + _NEAR_FOR_US
        in_hand = self.in_hand
        timers = [
            (due_us, call_id)
            for call_id, due_us in self._store.deadlines(near_us)
            if call_id not in in_hand
        ]
        timers += [(due_us, call_id) for call_id, due_us in deadlines_of(in_hand.items(), near_us)]
        heapq.heapify(timers)
        self._timers = timers
        self._near_us = near_us

    def due(self, now_us: int) -> Iterator[tuple[str, CallState]]:
        """Takes the calls that are to be looked at by now, the earliest first; their timers end.

        What is set meanwhile and is due comes, too.
        """
        if now_us >= self._near_us:
            self.look_ahead(now_us)
        while self._timers and self._timers[0][0] <= now_us:
            due_us, call_id = heapq.heappop(self._timers)
            if self._deadline(call_id) != due_us:
                continue  # another look was set meanwhile, or the call is forgotten
            state = self.take(call_id)
            state.deadline_us = None
            yield call_id, state

    def _deadline(self, call_id: str) -> int | None:
        state = self.in_hand.get(call_id)
        return self._store.deadline(call_id) if state is None else state.deadline_us
