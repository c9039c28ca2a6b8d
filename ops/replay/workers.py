"""Several processes side by side, each with its share of the partitions.

Owns starting them, what they say on their way, and their end: one that fails ends all. Partitions
are independent; what calls of different shares ask each other is answered when all are done.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from ops.errors import OpsError
from ops.replay.pace import step_back
from ops.replay.plan import PartPlan
from ops.replay.reading import Reached
from ops.replay.share import Job, ShareResult, run_share

_LOOK_SECONDS: Final = 0.2
_END_SECONDS: Final = 30.0


def shares(parts: Sequence[PartPlan], workers: int) -> list[list[int]]:
    """Partitions for each process, about as many records each; fewer shares than asked at most."""
    loads: list[tuple[int, list[int]]] = [(0, []) for _ in range(max(1, workers))]
    for part in sorted(parts, key=lambda part: (part.start - part.end, part.partition)):
        loads.sort(key=lambda load: (load[0], len(load[1])))
        records, numbers = loads[0]
        loads[0] = (records + part.end - part.start, [*numbers, part.partition])
    return [sorted(numbers) for _, numbers in loads if numbers]


def run_shares(
    job: Job,
    given: Sequence[Sequence[int]],
    tell: Callable[[Reached], None],
    is_stopped: Callable[[], bool],
) -> list[ShareResult]:
    """All shares to their ends; one of them alone needs no other process.

    Raises:
        OpsError: A process failed, or ended without a word.
    """
    if len(given) == 1:
        return [run_share(job, given[0], tell, is_stopped)]
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pipes: dict[Connection, int] = {}
    processes = []
    for index, numbers in enumerate(given):
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_share_process, args=(job, list(numbers), theirs, stop), daemon=True
        )
        process.start()
        theirs.close()
        processes.append(process)
        pipes[mine] = index
    try:
        return _followed(pipes, tell, is_stopped, stop)
    finally:
        stop.set()
        for process in processes:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


def _followed(
    pipes: dict[Connection, int],
    tell: Callable[[Reached], None],
    is_stopped: Callable[[], bool],
    stop: Any,
) -> list[ShareResult]:
    reached: dict[int, Reached] = {}
    results: dict[int, ShareResult] = {}
    while pipes:
        if is_stopped():
            stop.set()
        for pipe in wait(list(pipes), _LOOK_SECONDS):
            assert isinstance(pipe, Connection)
            index = pipes[pipe]
            try:
                said = pipe.recv()
            except EOFError:
                raise OpsError(
                    "a process of the replay has died",
                    "out of memory? Resume it with fewer --workers",
                ) from None
            if isinstance(said, Reached):
                reached[index] = said
                times = [each.event_us for each in reached.values() if each.event_us is not None]
                tell(
                    Reached(
                        sum(each.records for each in reached.values()), min(times, default=None)
                    )
                )
            elif isinstance(said, ShareResult):
                results[index] = said
                del pipes[pipe]
            else:
                raise OpsError(f"a process of the replay failed: {said[0]}", said[1])
    return [results[index] for index in sorted(results)]


def _share_process(job: Job, numbers: list[int], pipe: Connection, stop: Any) -> None:
    """In the process. The terminal's Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    step_back()
    parent = multiprocessing.parent_process()

    def is_stopped() -> bool:
        return stop.is_set() or parent is None or not parent.is_alive()

    try:
        pipe.send(run_share(job, numbers, pipe.send, is_stopped))
    except BaseException as error:  # noqa: BLE001  told to the parent, which fails
        advice = getattr(error, "advice", "") or traceback.format_exc(limit=-2).strip()
        pipe.send((f"{type(error).__name__}: {error}", advice))
    finally:
        pipe.close()
