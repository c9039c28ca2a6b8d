"""Some calls again, as a whole: read from the plan's first offset, and nothing of them forgotten.

The first pass forgets a call soon after it is over. What comes to one that was forgotten, an event
or an answer, is not judged then; the call is read again here, by its key, and is told as if all of
it had been there at once. What was told of the service differently is read again too, for its
reasons. Other records are passed over unread, so that this costs a tenth of a first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from callstate.envelope import ReferenceKnown
from ops.replay.partition import PartitionReplay, Told
from ops.replay.partitioner import partition_of
from ops.replay.reading import PartResult, Reached, read_parts
from ops.replay.share import Job, keys_of
from stream_app.sink import CallWrite

CALLS_AT_ONCE: Final = 20_000
_FLUSH_CALLS: Final = 2_000
_FOR_EVER_SECONDS: Final = 1e10


class _Gathered:
    """Newest revision of each call that was asked for."""

    def __init__(
        self, ids: Collection[str], full: Callable[[list[CallWrite]], None] | None
    ) -> None:
        self.calls: dict[str, CallWrite] = {}
        self._ids = ids
        self._full = full

    def take(self, part: PartitionReplay, told: Told) -> None:
        """As `Output` says."""
        for name, call in told.calls.items():
            if base_of(name) in self._ids:
                held = self.calls.get(name)
                if held is None or call.provenance.revision >= held.provenance.revision:
                    self.calls[name] = call
        if self._full is not None and len(self.calls) >= _FLUSH_CALLS:
            self.flush()

    def flush(self) -> None:
        """Hands on what is held."""
        if self._full is not None and self.calls:
            self._full(list(self.calls.values()))
            self.calls = {}

    def note(self, parts: Mapping[int, PartitionReplay], done: set[int], *, last: bool) -> None:
        """Nothing to keep: a second look begins again."""


def base_of(name: str) -> str:
    """The Call-ID that a later use of it is told under."""
    return name.partition(";from-tag=")[0]


def look_again(
    job: Job,
    ids: Collection[str],
    results: Mapping[int, PartResult],
    facts: Sequence[ReferenceKnown] = (),
    *,
    keep: bool = True,
    full: Callable[[list[CallWrite]], None] | None = None,
    tell: Callable[[Reached], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[CallWrite]:
    """What is told of some calls, with all reasons.

    Args:
        job: The replay's.
        ids: Call-IDs.
        results: Of the first pass.
        facts: Answers that the calls' questions have had.
        keep: Whether they stay in memory for whatever comes late; else only until they are over.
        full: Takes what was told, a few thousand calls at a time; else all is returned.
        tell: How far it is.
        is_stopped: Whether to give up.

    Raises:
        OpsError: The source cannot be read.
    """
    wanted = set(ids)
    numbers = {partition_of(call_id, job.plan.partitions) for call_id in wanted}
    plans = [part for part in job.plan.parts if part.partition in numbers]
    servers = {*job.resolution.servers, *(name for r in results.values() for name in r.servers)}
    # Clocks that only the traffic tells need all of the traffic.
    unprobed = any(result.unprobed for result in results.values())
    keys = None if unprobed else keys_of(wanted, servers)
    kept = wanted if keep else ()
    rules = job.rules()
    if keep:
        # Nothing is forgotten by time; what is not to be kept goes when there is too much of it.
        rules = replace(rules, late_horizon_seconds=_FOR_EVER_SECONDS)
    parts = {
        plan.partition: PartitionReplay(rules, plan.partition, explaining=True, keep=kept)
        for plan in plans
    }
    for plan in plans:
        parts[plan.partition].next_offset = plan.start
    for fact in facts:
        part = parts.get(partition_of(fact.call_id, job.plan.partitions))
        if part is not None and fact.call_id in wanted:
            part.feed([fact])
    gathered = _Gathered(wanted, full)
    read_parts(
        job.source(plans, keys, is_stopped),
        parts,
        {plan.partition: plan.end for plan in plans},
        job.plan.partitions,
        gathered,
        tell=tell,
        is_stopped=is_stopped,
    )
    gathered.flush()
    return list(gathered.calls.values())
