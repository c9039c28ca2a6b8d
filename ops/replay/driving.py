"""A replay from its plan to its result.

Owns the order of the steps: read all partitions, look again at calls that came back, compare, read
the reasons of what differs, and sum up. Each step can be done again, so that a replay which was
killed anywhere is resumed by doing what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from psycopg import sql

from callstate.config import ResolutionConfig
from callstate.envelope import ReferenceKnown
from callstate.events import format_time
from ops.replay import comparing, registry, shadow
from ops.replay.comparing import changed_ids, compare, ledger_of_service
from ops.replay.digest import CdrDigest, Compared, Ledger, digest_of_inputs, digest_of_settings
from ops.replay.partition import Question
from ops.replay.reading import PartResult, Reached, facts_between
from ops.replay.registry import Replay
from ops.replay.second_look import CALLS_AT_ONCE, base_of, look_again
from ops.replay.shadow import Connection, connect, table_names
from ops.replay.share import Job
from ops.replay.workers import run_shares, shares
from stream_app.copy_text import cdr_line

Tell = Callable[[str, Reached], None]
"""What is being done, and how far it is."""


class Stopped(Exception):
    """Somebody asked for the end; what was done is kept."""


class Verified(NamedTuple):
    """A live range beside its replay.

    Attributes:
        service: Digest of the service's records.
        replay: Digest of the replay's.
        compared: Call by call.
        later: Records of the service that are newer than what the replay has read.
        inputs: Digest of what was read.
        settings: Digest of the rules' settings.
        records: How many were read.
        missing_until_us: Records of the range from before this moment are gone.
    """

    service: CdrDigest
    replay: CdrDigest
    compared: Compared
    later: int
    inputs: str
    settings: str
    records: int
    missing_until_us: int | None


def settings_json(resolution: ResolutionConfig) -> dict[str, Any]:
    """The rules' settings as they are kept and digested."""
    told = asdict(resolution)
    told["servers"] = sorted(resolution.servers)
    told["time_correction"] = str(resolution.time_correction.value)
    return told


def drive(
    job: Job,
    workers: int = 1,
    tell: Tell = lambda _step, _reached: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Replay:
    """Runs or resumes a replay to its end; its result is in the registry.

    Raises:
        Stopped: Somebody asked for it; `resume` goes on.
        OpsError: The source cannot be read, or another process is at it.
        psycopg.Error: The database is away or refuses.
    """
    assert job.replay_id is not None
    replay_id = job.replay_id
    name = f"cdrstream replay {replay_id}"
    with (
        connect(job.dsn, job.schema, name) as connection,
        connect(job.dsn, job.schema, name) as writer,
        registry.held(connection, replay_id),
    ):
        results = _read(job, workers, tell, is_stopped)
        shadow.settle(connection, replay_id)
        _look_again(job, connection, results, tell, is_stopped)
        shadow.settle(connection, replay_id)
        watermark_us = _watermark(results.values())
        summary = compare(connection, writer, replay_id, job.plan, watermark_us)
        _read_reasons(job, connection, results, tell, is_stopped)
        service = comparing.digest_of_service(connection, job.plan.span)
        replayed = comparing.digest_of_replay(connection, replay_id, job.plan.span)
        result = {
            **_told_of(job, results),
            "watermark": None if watermark_us is None else format_time(watermark_us),
            "digests": {
                "service": str(service),
                "replay": str(replayed),
                "inputs": digest_of_inputs(r.inputs for r in results.values()),
                "settings": digest_of_settings(settings_json(job.resolution)),
            },
            "summary": summary.to_json(),
        }
        registry.finish(connection, replay_id, result)
        return registry.get(connection, replay_id)


def verify(
    job: Job,
    workers: int = 1,
    tell: Tell = lambda _step, _reached: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Verified:
    """Digests of a live range and of its replay; nothing is written anywhere.

    Raises:
        Stopped: Somebody asked for it.
        OpsError: The source cannot be read.
        psycopg.Error: The database is away or refuses.
    """
    ledger, results = digest_only(job, workers, tell, is_stopped)
    with connect(job.dsn, job.schema, "cdrstream replay verify") as connection:
        service, later = ledger_of_service(connection, job.plan.span, _watermark(results.values()))
    return Verified(
        service.digest(),
        ledger.digest(),
        ledger.compare(service, later),
        len(later),
        digest_of_inputs(result.inputs for result in results.values()),
        digest_of_settings(settings_json(job.resolution)),
        sum(result.inputs.records for result in results.values()),
        job.plan.missing_until_us,
    )


def digest_only(
    job: Job,
    workers: int = 1,
    tell: Tell = lambda _step, _reached: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[Ledger, dict[int, PartResult]]:
    """The CDRs of a range by their hashes, without a database."""
    assert job.replay_id is None
    ledger = Ledger()
    results: dict[int, PartResult] = {}
    for share in run_shares(
        job, shares(job.plan.parts, workers), lambda r: tell("reading", r), is_stopped
    ):
        if not share.complete or share.output is None:
            raise Stopped
        ledger.merge(share.output.ledger)
        results |= share.parts
    still_open = {call_id for result in results.values() for call_id in result.open_calls}
    asked = {named for result in results.values() for _, named in result.questions}
    known = still_open | set(ledger.told(asked))
    ids, facts = _whom_to_look_at(results, known)
    for some in _in_lots(ids):
        again = look_again(
            job, some, results, facts, tell=lambda r: tell("late calls", r), is_stopped=is_stopped
        )
        if is_stopped():
            raise Stopped
        told = {call.call_id: call for call in again}
        for name in {*some, *told}:
            call = told.get(name)
            line = None
            if call and call.cdr and job.plan.span.holds(call.cdr.start_time_us):
                line = cdr_line(call.cdr).encode("utf-8", "replace")
            ledger.add(name, line, _AS_A_WHOLE, 0)
    return ledger, results


_AS_A_WHOLE: Final = 2**32 - 1  # before every revision


def _read(
    job: Job, workers: int, tell: Tell, is_stopped: Callable[[], bool]
) -> dict[int, PartResult]:
    results: dict[int, PartResult] = {}
    given = shares(job.plan.parts, workers)
    complete = True
    for share in run_shares(job, given, lambda r: tell("reading", r), is_stopped):
        results |= share.parts
        complete = complete and share.complete
    if not complete:
        raise Stopped
    return results


def _look_again(
    job: Job,
    connection: Connection,
    results: Mapping[int, PartResult],
    tell: Tell,
    is_stopped: Callable[[], bool],
) -> None:
    assert job.replay_id is not None
    still_open = {call_id for result in results.values() for call_id in result.open_calls}
    asked = {named for result in results.values() for _, named in result.questions}
    known = still_open | _told_calls(connection, job.replay_id, asked)
    ids, facts = _whom_to_look_at(results, known)
    for some in _in_lots(ids):
        again = look_again(
            job, some, results, facts, tell=lambda r: tell("late calls", r), is_stopped=is_stopped
        )
        if is_stopped():
            raise Stopped
        shadow.write_again(connection, job.replay_id, again, some)


def _told_calls(connection: Connection, replay_id: int, asked: Iterable[str]) -> set[str]:
    statement = sql.SQL(
        "SELECT call_id FROM {cdrs} WHERE call_id = ANY(%s) AND revision > 0"
    ).format(**table_names(replay_id))
    return {row[0] for row in connection.execute(statement, (list(asked),))}


def _whom_to_look_at(
    results: Mapping[int, PartResult], known: set[str]
) -> tuple[list[str], list[ReferenceKnown]]:
    """Calls that came back, those whose questions have an answer only now, and all answers."""
    returning = {base_of(name) for result in results.values() for name in result.returning}
    questions: set[Question] = {q for result in results.values() for q in result.questions}
    late = facts_between(questions, known.__contains__)
    ids = returning | {fact.call_id for fact in late}
    answers = {answer for result in results.values() for answer in result.answers}
    facts = [ReferenceKnown(*answer) for answer in sorted(answers) if answer[0] in ids]
    return sorted(ids), [*facts, *late]


def _read_reasons(
    job: Job,
    connection: Connection,
    results: Mapping[int, PartResult],
    tell: Tell,
    is_stopped: Callable[[], bool],
) -> None:
    """Why the changed calls are as they are: needed to apply them, and to explain them."""
    assert job.replay_id is not None
    replay_id = job.replay_id
    names = changed_ids(connection, replay_id)
    if not names:
        return
    answers = {answer for result in results.values() for answer in result.answers}
    ids = {base_of(name) for name in names}
    look_again(
        job,
        ids,
        results,
        [ReferenceKnown(*answer) for answer in sorted(answers) if answer[0] in ids],
        keep=False,
        full=lambda calls: shadow.write_reasons(connection, replay_id, calls),
        tell=lambda r: tell("reasons", r),
        is_stopped=is_stopped,
    )
    if is_stopped():
        raise Stopped


def _in_lots(ids: list[str]) -> Iterable[list[str]]:
    for start in range(0, len(ids), CALLS_AT_ONCE):
        yield ids[start : start + CALLS_AT_ONCE]


def _watermark(results: Iterable[PartResult]) -> int | None:
    """Up to when all partitions are complete; None where one of them is not at all."""
    times = [result.watermark_us for result in results]
    known = [time_us for time_us in times if time_us is not None]
    return min(known) if known and len(known) == len(times) else None


def _told_of(job: Job, results: Mapping[int, PartResult]) -> dict[str, Any]:
    missing = job.plan.missing_until_us
    return {
        "records": sum(result.inputs.records for result in results.values()),
        "dead_letters": sum(result.dead_letters for result in results.values()),
        "returning": sum(len(result.returning) for result in results.values()),
        "clocks": "traffic" if any(r.unprobed for r in results.values()) else "probes",
        "missing_until": None if missing is None else format_time(missing),
    }
