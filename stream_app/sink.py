"""The sink: one PostgreSQL transaction for a batch of finished calls and the partitions' progress.

Owns the transaction, its revision guard, and the finding of single values that PostgreSQL refuses;
`progress` has the fence by epochs. Refuses to know Kafka, and when to write or to try again.

Guarantees: a lower revision never overwrites a higher one, hidden calls included; a batch of a
worker whose epoch is over writes nothing; a batch is written as a whole with its progress or not at
all; one poisonous call is left out and told, the rest is written; never a round trip a call.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from callstate.call import CallState
from callstate.cdr import Cdr, Provenance
from callstate.envelope import Gap
from callstate.recall import Told, call_from_provenance, named_apart
from stream_app.active_calls import Change, write_active
from stream_app.copy_text import cdr_line, provenance_line
from stream_app.errors import SinkRefused, SinkUnavailable, way_into_sink
from stream_app.progress import Fenced, Progress, advance, epochs, positions, take
from stream_app.reused import NAMES_MAX, begun_again, names_of

log = logging.getLogger(__name__)

_STATEMENTS: Final = Path(__file__).with_name("statements")
_BATCH_TABLES: Final = (_STATEMENTS / "batch_tables.sql").read_bytes()
_WRITE_CALLS: Final = (_STATEMENTS / "write_calls.sql").read_bytes()
_REUSED: Final = (_STATEMENTS / "reused.sql").read_bytes()
_SUPERSEDED: Final = (_STATEMENTS / "superseded.sql").read_bytes()

_COPY_CDRS: Final = "COPY pg_temp.batch_cdrs FROM STDIN"
_COPY_PROVENANCE: Final = "COPY pg_temp.batch_provenance FROM STDIN"
# Whoever swaps many CDRs at once (a replay that is applied) holds this lock exclusively: batches
# wait for it, and never for each other.
SWAP_LOCK_KEY: Final = 0x63647272  # "cdrr"
_EMPTY_BATCH: Final = (
    b"SELECT pg_advisory_xact_lock_shared(%d); "
    b"DELETE FROM pg_temp.batch_cdrs; DELETE FROM pg_temp.batch_provenance" % SWAP_LOCK_KEY
)

_KNOW_LATER: Final = """
UPDATE cdr_provenance
SET basis = jsonb_set(basis, '{uses}', coalesce(basis->'uses', '[]') || to_jsonb(%s::text[]))
WHERE call_id = %s AND NOT coalesce(basis->'uses', '[]') ?& %s::text[]
"""

_RECALL: Final = """
SELECT why.call_id, to_jsonb(why), to_jsonb(cdrs)
FROM cdr_provenance AS why LEFT JOIN cdrs USING (call_id)
WHERE why.call_id = ANY(%s::text[])
"""

_ACTIVE: Final = """
SELECT call_id, caller_aor, callee_aor, recipient,
    start_time AT TIME ZONE 'UTC', connect_time AT TIME ZONE 'UTC'
FROM active_calls ORDER BY connect_time, call_id
"""

_ADD_GAP: Final = """
INSERT INTO cdr_gaps (server, from_lsn, to_lsn, from_time, to_time, reason)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (server, from_lsn, to_lsn) DO NOTHING
"""

# A frozen worker that holds a row's lock must not keep the worker that takes its partition waiting.
_SESSION: Final = (
    "-c timezone=UTC -c datestyle=ISO,YMD -c statement_timeout=60s -c lock_timeout=10s "
    "-c idle_in_transaction_session_timeout=5s -c client_min_messages=warning"
)


@dataclass(frozen=True, slots=True)
class CallWrite:
    """One call's newest revision: its CDR, or the reason why it has none."""

    provenance: Provenance
    cdr: Cdr | None
    hidden_reason: str | None = None

    @property
    def call_id(self) -> str:
        """The call."""
        return self.provenance.call_id


@dataclass(frozen=True, slots=True)
class Poison:
    """A call that PostgreSQL refuses, and its words."""

    call: CallWrite
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction did; with `fenced` partitions nothing was written at all.

    `apart`: Call-ID to the call as it was written, where an earlier call has that Call-ID.
    `superseded`: calls of which the table holds something newer; who wrote that tells it.
    `swap`: the newest apply or undo of a replay that this batch came behind; 0: there was none.
    """

    inserted: int = 0
    revised: int = 0
    hidden: int = 0
    stale: int = 0
    poison: tuple[Poison, ...] = ()
    fenced: frozenset[int] = frozenset()
    apart: Mapping[str, CallWrite] = field(default_factory=dict)
    superseded: frozenset[str] = frozenset()
    swap: int = 0

    def and_also(self, other: Written) -> Written:
        """Both in one transaction."""
        return Written(
            self.inserted + other.inserted,
            self.revised + other.revised,
            self.hidden + other.hidden,
            self.stale + other.stale,
            self.poison + other.poison,
            apart={**self.apart, **other.apart},
            superseded=self.superseded | other.superseded,
            swap=max(self.swap, other.swap),
        )


class ActiveRow(NamedTuple):
    """A call in progress as the database has it; times are aware."""

    call_id: str
    caller_aor: str
    callee_aor: str
    recipient: str
    start_time: datetime
    connect_time: datetime


class Sink:
    """A connection to the sink's database, made when needed and again when it broke.

    Not for several threads at one time. Every method raises `SinkUnavailable` (try again later) or
    `SinkRefused` (rights, tables) and nothing else for what the database says.
    """

    def __init__(self, dsn: str, *, schema: str = "public", name: str = "cdrstream worker") -> None:
        self._dsn = dsn
        self._schema = schema
        self._name = name
        self._connection: psycopg.Connection[Any] | None = None
        self._advanced: dict[tuple[str, int, int], int] = {}  # in the newest commits

    def close(self) -> None:
        """Closes the connection; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def take(self, topics: Sequence[str], partitions: Iterable[int], holder: str) -> dict[int, int]:
        """Raises the epochs of partitions, so that who held them before can write no more.

        Returns:
            Partition to the epoch that this worker now has.
        """
        with _Told(self), self._connect().transaction():
            return take(self._connect(), topics, partitions, holder)

    def epochs(self, topic: str) -> dict[int, int]:
        """Partition to its present epoch."""
        with _Told(self):
            return epochs(self._connect(), topic)

    def positions(self, topic: str) -> dict[int, tuple[int, datetime | None]]:
        """Partition to the next offset and the watermark as of its last commit."""
        with _Told(self):
            return positions(self._connect(), topic)

    def recall(self, call_ids: Collection[str]) -> dict[str, CallState]:
        """Calls as they were told last; who was never told, or is purged, is not in it.

        One query for all, and a second one where Call-IDs were used again.
        """
        with _Told(self):
            found = self._told_of(list(call_ids))
            apart = [name for told in found.values() for name in named_apart(told.provenance)]
            others = self._told_of(apart) if apart else {}
        calls = {}
        for call_id, told in found.items():
            names = named_apart(told.provenance)
            try:
                calls[call_id] = call_from_provenance(
                    call_id, told, [others[name] for name in names if name in others]
                )
            except ValueError as error:
                log.error(  # noqa: TRY400  told whole
                    "call_not_recalled", extra={"call_id": call_id, "error": str(error)}
                )
        return calls

    def _told_of(self, names: list[str]) -> dict[str, Told]:
        rows = self._connect().execute(_RECALL, (names,))
        return {row[0]: Told(row[1], row[2]) for row in rows}

    def write_active(self, topic: str, changes: Mapping[tuple[int, int], Change]) -> None:
        """Who is talking now has changed: partition and epoch to what is new."""
        with _Told(self):
            write_active(self._connect(), topic, changes)

    def active_calls(self) -> list[ActiveRow]:
        """Who is talking now, in all partitions; the longest call first."""
        with _Told(self):
            return [ActiveRow(*row) for row in self._connect().execute(_ACTIVE)]

    def write(
        self,
        calls: Sequence[CallWrite],
        progress: Sequence[Progress],
        gaps: Sequence[Gap] = (),
    ) -> Written:
        """Writes a batch and the progress that it makes, in one transaction.

        Args:
            calls: At most one entry a call-id.
            progress: The partitions that the calls come from, each with its holder's epoch.
            gaps: Written once each, however often they are seen.

        Returns:
            What was done. Where `fenced` is not empty the transaction was given up: leave those
            partitions' part away and write the rest again.
        """
        with _Told(self):
            connection = self._connect()
            try:
                with connection.transaction():
                    # The slow part first: the fence's row lock is held for one short statement.
                    done = self._write_calls(connection, calls)
                    advanced = advance(connection, progress, self._advanced)
                    for gap in gaps:
                        connection.execute(_ADD_GAP, _gap_row(gap))
            except Fenced as fenced:
                return Written(fenced=fenced.partitions)
            self._advanced.update(advanced)
            return done

    def _write_calls(
        self, connection: psycopg.Connection[Any], calls: Sequence[CallWrite]
    ) -> Written:
        """All calls, or halves of them until the poisonous ones stand alone."""
        if not calls:
            return Written()
        try:
            with connection.transaction():
                return self._copy_and_upsert(connection, calls)
        except (psycopg.Error, TypeError, UnicodeError) as error:
            if not _is_poison(error):
                raise
            if len(calls) == 1:
                return Written(poison=(Poison(calls[0], _one_line(error)),))
            middle = len(calls) // 2
            left = self._write_calls(connection, calls[:middle])
            return left.and_also(self._write_calls(connection, calls[middle:]))

    def _copy_and_upsert(
        self, connection: psycopg.Connection[Any], calls: Sequence[CallWrite]
    ) -> Written:
        cdrs = "\n".join([cdr_line(call.cdr) for call in calls if call.cdr is not None])
        reasons = [provenance_line(call.provenance, call.hidden_reason) for call in calls]
        with connection.cursor() as cursor:
            cursor.execute(_EMPTY_BATCH)
            if cdrs:
                with cursor.copy(_COPY_CDRS) as copy:
                    copy.write(cdrs.encode())
            with cursor.copy(_COPY_PROVENANCE) as copy:
                copy.write(b"".join(reasons))
            cursor.execute(_WRITE_CALLS)
            counts = cursor.fetchone()
        assert counts is not None
        inserted, revised, hidden, _removed, accepted, swap = counts
        done = Written(inserted, revised, hidden, stale=len(calls) - accepted, swap=swap)
        if not done.stale:
            return done
        superseded = frozenset(row[0] for row in connection.execute(_SUPERSEDED))
        return self._told_apart(connection, calls, replace(done, superseded=superseded))

    def _told_apart(
        self, connection: psycopg.Connection[Any], calls: Sequence[CallWrite], done: Written
    ) -> Written:
        """Writes later calls with an earlier one's Call-ID under names of their own."""
        reused = {row[0] for row in connection.execute(_REUSED)}
        later = {
            call.call_id: CallWrite(*begun_again(call.provenance, call.cdr), call.hidden_reason)
            for call in calls
            if call.call_id in reused and call.call_id.count(";") < NAMES_MAX
        }
        if not later:
            return done
        again = self._copy_and_upsert(connection, list(later.values()))
        apart = {name: again.apart.get(call.call_id, call) for name, call in later.items()}
        for call_id, call in apart.items():
            names = names_of(call.provenance)
            connection.execute(_KNOW_LATER, (names, call_id, names))
        counted = replace(
            done, stale=done.stale - len(later), superseded=done.superseded - later.keys()
        )
        return replace(counted.and_also(again), apart=apart)

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=5,
                application_name=self._name,
                options=_SESSION,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=15_000,
            )
            path = sql.SQL("SET search_path = {}").format(sql.Identifier(self._schema))
            self._connection.execute(path)
            self._connection.execute(_BATCH_TABLES)
        return self._connection


class _Told:
    """Says what the database said in this package's words, and drops a broken connection."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, psycopg.Error):
            return
        self._sink.close()
        state = error.sqlstate or ""
        if state[:2] in ("42", "28", "3D", "3F", "0A"):
            raise SinkRefused(f"the sink refuses: {_one_line(error)} ({state})") from error
        words = _one_line(error)
        raise SinkUnavailable(
            f"the sink cannot be written to: {words}", way_into_sink(words)
        ) from error


def _is_poison(error: Exception) -> bool:
    """Whether the error lies in a value: the same again would fail the same way."""
    if not isinstance(error, psycopg.Error):
        return True  # JSON or text that cannot be encoded
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.DataError)  # psycopg refuses the value itself
    # 54000: a call-id too long for an index; 54001 and others of the class are not about values.
    return state[:2] in ("22", "23") or state in ("54000", "2200N")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


_GAP_TEXT_MAX: Final = 200  # characters; three such texts stand in one index
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


def _gap_row(gap: Gap) -> tuple[object, ...]:
    def moment(time_us: int) -> datetime | None:
        try:
            return _FIRST + timedelta(microseconds=time_us)
        except OverflowError:
            return None

    def text(value: str) -> str:
        # One that PostgreSQL refuses would be tried again for ever, and all calls with it.
        return value.replace("\x00", "\ufffd")[:_GAP_TEXT_MAX]

    return (
        text(gap.server),
        text(gap.from_lsn),
        text(gap.to_lsn),
        moment(gap.from_us),
        moment(gap.to_us),
        gap.reason.replace("\x00", "\ufffd"),
    )
