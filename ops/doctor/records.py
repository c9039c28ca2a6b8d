"""Are CDRs what the rules make of their events? A few at random, resolved again.

Owns the sample and the comparison. What was written long ago under other settings differs, too:
that is worth a look, and no failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from callstate.effects import EmitCdr
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from ops.doctor.checks import Finding, cannot_tell, ok, warn
from ops.doctor.server_facts import connect

if TYPE_CHECKING:
    from callstate.call import CallState
    from callstate.cdr import Cdr
    from callstate.config import ResolutionConfig
    from stream_app.settings import WorkerSettings

SAMPLE_CALLS: Final = 20
_BLOCK_ROWS: Final = 2_000  # some tables' blocks hold that many; all of a small table
# Whole blocks at random: a sample of a hundred million rows reads no more than one of a thousand.
_SAMPLE: Final = """
SELECT call_id FROM (
    SELECT call_id FROM cdr_provenance TABLESAMPLE SYSTEM (
        (SELECT least(100, 100 * %(rows)s / greatest(reltuples, %(rows)s)) FROM pg_class
         WHERE oid = 'cdr_provenance'::regclass))
    WHERE hidden_reason IS NULL AND position(';' IN call_id) = 0 LIMIT %(rows)s
) AS sampled ORDER BY random() LIMIT %(calls)s
"""


class Pair(NamedTuple):
    """A call's record as it stands, and as its events make it now."""

    call_id: str
    stands: Cdr | None
    made: Cdr | None


def gather(settings: WorkerSettings) -> tuple[list[Pair], int]:
    """A few calls of the sink, resolved again; and of how many more the reasons make no call.

    Raises:
        psycopg.Error: The sink is away, or does not answer in time.
    """
    from stream_app.sink import Sink  # noqa: PLC0415  readers' machines need it not

    with connect(settings.sink_dsn) as connection:
        connection.execute("SELECT set_config('search_path', %s, false)", (settings.sink_schema,))
        rows = connection.execute(_SAMPLE, {"rows": _BLOCK_ROWS, "calls": SAMPLE_CALLS})
        names = [row["call_id"] for row in rows]
    sink = Sink(settings.sink_dsn, schema=settings.sink_schema, name="cdrstream doctor")
    try:
        calls = sink.recall(names) if names else {}
    finally:
        sink.close()
    rules = replace(settings.resolution, servers=())
    pairs = [
        again(call_id, state, rules)
        for call_id, state in calls.items()
        if not state.events_dropped and not state.uses
    ]
    return pairs, len(names) - len(calls)


def again(call_id: str, state: CallState, rules: ResolutionConfig) -> Pair:
    """What was told of a call beside what the rules make of it now."""
    stands = state.told
    return Pair(call_id, stands, _resolved(call_id, state, rules))


def _resolved(call_id: str, state: CallState, rules: ResolutionConfig) -> Cdr | None:
    calls = DictStore()
    calls.put(call_id, state)
    door = PartitionProcessor(rules, calls, explaining=False, live=False)
    for effect in door.finish():
        if isinstance(effect, EmitCdr) and effect.cdr.call_id == call_id:
            return effect.cdr
    return None


def judge(pairs: Sequence[Pair], unread: int = 0) -> list[Finding]:
    """Whether all are the same."""
    if unread:
        return [
            cannot_tell(
                f"the reasons of {unread} of {len(pairs) + unread} CDRs at random cannot be read",
                "did a newer version write them? else report it as a bug",
            )
        ]
    if not pairs:
        return [ok("no CDR to look at")]
    other = [pair.call_id for pair in pairs if pair.stands != pair.made]
    if not other:
        return [ok(f"{len(pairs)} CDRs at random are what the rules make of their events")]
    return [
        warn(
            f"{len(other)} of {len(pairs)} CDRs at random are not what the rules make of their"
            f" events: {other[0]}",
            "the same, unless settings or rules were changed since, or somebody wrote into cdrs",
            "cdrstream explain CALL-ID; neither of these? report it as a bug",
        )
    ]
