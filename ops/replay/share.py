"""A process's share of a replay: which partitions, with which settings, into which tables.

Owns the job as it is handed to a process, and the points in the database from which a share goes on
after a kill. Refuses to know how many processes there are: that is `ops.replay.workers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from psycopg import sql

from callstate.config import ResolutionConfig, to_us
from ops.cycles import without_cycle_collection
from ops.replay import registry
from ops.replay.pace import Pace, batch_of
from ops.replay.partition import PartitionReplay, Told
from ops.replay.plan import PartPlan, Plan
from ops.replay.reading import LedgerOutput, PartResult, Reached, Tail, read_parts, result_of
from ops.replay.registry import Part
from ops.replay.shadow import ShadowWriter, connect, table_names
from ops.replay.source import KafkaSource, Source

LATE_HORIZON_SECONDS: Final = 600.0
"""How long a replay holds calls that are over; what comes later is looked at a second time."""
OVER_MAX: Final = 8_000
"""Calls that are over and held, of one process at most; about 10 kB each."""
_OVER_LEAST: Final = 200


@dataclass(frozen=True, slots=True)
class Job:
    """What every process of a replay is told.

    Attributes:
        plan: What is read.
        resolution: The rules' settings.
        kafka: Properties of librdkafka.
        topic: Of the events.
        references_topic: Of questions and answers.
        replay_id: Whose shadow tables are filled; None: only digests.
        dsn: Of the database with the shadow tables.
        schema: Their schema.
        records_per_second_max: Of this process; 0: no bound.
        queue_kbytes_max: Fetched and not yet read.
        checkpoint_seconds: How often a point to go on from is kept.
        servers: Name to connection string, where the servers' own tables are read.
    """

    plan: Plan
    resolution: ResolutionConfig
    kafka: Mapping[str, Any] = field(repr=False)
    topic: str
    references_topic: str
    replay_id: int | None
    dsn: str = field(repr=False)
    schema: str = "public"
    records_per_second_max: float = 0.0
    queue_kbytes_max: int = 16_384
    checkpoint_seconds: float = 20.0
    servers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[dict[str, Any], dict[str, Any]]]:
        """For other processes: a compiled frozen value cannot be put together by `pickle`."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return _job_of, (own, asdict(own.pop("resolution")))

    def source(
        self,
        parts: Sequence[PartPlan],
        keys: Collection[bytes] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Source:
        """The plan's source, of some partitions and keys."""
        if self.plan.source == "export":
            from ops.replay.exported import ExportSource  # noqa: PLC0415  on demand

            return ExportSource(self.plan.where, parts, keys=keys, is_stopped=is_stopped)
        if self.plan.source == "servers":
            from ops.replay.from_servers import ServersSource  # noqa: PLC0415  on demand

            longest = self.resolution.max_call_seconds
            return ServersSource(self.servers, self.plan, longest, keys=keys, is_stopped=is_stopped)
        return KafkaSource(
            self.kafka,
            self.topic,
            self.references_topic,
            parts,
            keys=keys,
            queue_kbytes_max=self.queue_kbytes_max,
            batch_records_max=batch_of(self.records_per_second_max),
            is_stopped=is_stopped,
        )

    def tail(self) -> Tail | None:
        """What may be left out behind the range; None where calls have no longest time."""
        if self.resolution.max_call_seconds <= 0:
            return None
        wait_seconds = max(0.0, self.resolution.failed_wait_seconds)
        return Tail(self.plan.span, to_us(self.resolution.max_call_seconds + wait_seconds))

    def rules(self) -> ResolutionConfig:
        """The rules' settings as the first pass uses them: calls that are over are soon let go."""
        horizon = min(self.resolution.late_horizon_seconds, LATE_HORIZON_SECONDS)
        return replace(self.resolution, late_horizon_seconds=horizon)


def _job_of(own: dict[str, Any], resolution: dict[str, Any]) -> Job:
    return Job(**own, resolution=ResolutionConfig(**resolution))


@dataclass(slots=True)
class ShareResult:
    """What a share came to.

    Attributes:
        parts: By partition.
        complete: False where it was stopped before its end.
        output: The ledger, where only digests were asked for.
        began: Machine-wide monotonic time of the first fetch.
        ended: The same of the last record's end.
    """

    parts: dict[int, PartResult]
    complete: bool
    output: LedgerOutput | None = None
    began: float = 0.0
    ended: float = 0.0


class ShadowOutput:
    """Tells the shadow tables, and keeps points to go on from."""

    def __init__(self, job: Job, rows_written: Mapping[int, int]) -> None:
        assert job.replay_id is not None
        self._replay_id = job.replay_id
        self._seconds = job.checkpoint_seconds
        self._connection = connect(job.dsn, job.schema, f"cdrstream replay {job.replay_id}")
        registry.write_for(self._connection, job.replay_id)
        self._writer = ShadowWriter(job.dsn, job.schema, job.replay_id)
        self._written = dict(rows_written)
        self._kept_at = time.monotonic()
        self._kept_done: set[int] = set()

    def take(self, part: PartitionReplay, told: Told) -> None:
        """As `Output` says."""
        number = part.partition
        self._written[number] = self._writer.add(number, told, self._written.get(number, 0))

    def note(self, parts: Mapping[int, PartitionReplay], done: set[int], *, last: bool) -> None:
        """Keeps all partitions, in one transaction, if it is time."""
        now = time.monotonic()
        if not last and now - self._kept_at < self._seconds:
            return
        for part in parts.values():
            self.take(part, part.take_told())
        self._writer.flush()
        with self._connection.transaction():
            for number, part in parts.items():
                if number in self._kept_done:
                    continue
                is_done = number in done
                written = self._written.get(number, 0)
                state = part.snapshot(done=is_done)
                kept = Part(number, part.next_offset, written, is_done, state)
                registry.keep_part(self._connection, self._replay_id, kept)
                if is_done and last:
                    self._kept_done.add(number)
        self._kept_at = time.monotonic()

    def close(self) -> None:
        """Ends its connections."""
        self._writer.close()
        self._connection.close()


def run_share(
    job: Job,
    numbers: Sequence[int],
    tell: Callable[[Reached], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> ShareResult:
    """Reads some partitions to their ends, from where they were left.

    Raises:
        OpsError: The source cannot be read.
        psycopg.Error: The shadow tables cannot be written.
    """
    plans = [part for part in job.plan.parts if part.partition in set(numbers)]
    keys = keys_of(job.plan.calls, job.resolution.servers) if job.plan.calls else None
    over_max = max(_OVER_LEAST, OVER_MAX // max(1, len(plans)))
    parts = {
        plan.partition: PartitionReplay(job.rules(), plan.partition, over_max=over_max)
        for plan in plans
    }
    for plan in plans:
        parts[plan.partition].next_offset = plan.start
    output: LedgerOutput | ShadowOutput
    is_resumed = False  # then nobody knows any more which calls had no end
    if job.replay_id is None:
        output = LedgerOutput(job.plan.span)
    else:
        written = _take_up(job, parts)
        is_resumed = bool(written)
        output = ShadowOutput(job, written)
    began = time.monotonic()
    try:
        with without_cycle_collection():
            complete = read_parts(
                job.source(plans, keys, is_stopped),
                parts,
                {plan.partition: plan.end for plan in plans},
                job.plan.partitions,
                output,
                pace=Pace(job.records_per_second_max),
                tail=None if is_resumed else job.tail(),
                tell=tell,
                is_stopped=is_stopped,
            )
    finally:
        if isinstance(output, ShadowOutput):
            output.close()
    ended = time.monotonic()
    results = {plan.partition: result_of(parts[plan.partition], plan.start) for plan in plans}
    ledger = output if isinstance(output, LedgerOutput) else None
    return ShareResult(results, complete, ledger, began, ended)


def keys_of(calls: Collection[str], servers: Collection[str]) -> frozenset[bytes]:
    """Keys of these calls' records, and of the heartbeats that move their time on."""
    return frozenset(name.encode("utf-8", "replace") for name in (*calls, *servers))


def _take_up(job: Job, parts: Mapping[int, PartitionReplay]) -> dict[int, int]:
    """Partitions as they were kept; rows that were written behind that point are taken away."""
    assert job.replay_id is not None
    names = table_names(job.replay_id)
    rows_written = {}
    with connect(job.dsn, job.schema, f"cdrstream replay {job.replay_id}") as connection:
        kept = registry.parts(connection, job.replay_id)
        for number, part in parts.items():
            held = kept.get(number)
            if held is not None and not held.done and job.plan.source == "servers":
                held = None  # tables have no offsets to go on from
            rows = 0 if held is None else held.rows_written
            connection.execute(
                sql.SQL("DELETE FROM {cdrs} WHERE partition = %s AND seq >= %s").format(**names),
                (number, rows),
            )
            if held is None or held.state is None:
                continue
            found = connection.execute(
                sql.SQL("SELECT call_id FROM {cdrs} WHERE partition = %s").format(**names),
                (number,),
            ).fetchall()
            if len(found) != rows:
                # The database has crashed and emptied the table: this partition begins again.
                connection.execute(
                    sql.SQL("DELETE FROM {cdrs} WHERE partition = %s").format(**names), (number,)
                )
                continue
            part.restore(held.state, held.next_offset)
            part.store.forgot(row[0] for row in found)
            rows_written[number] = rows
    return rows_written
