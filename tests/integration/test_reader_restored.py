"""A server that was put back to an earlier state, from a copy of its data folder."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc import errors
from cdc.reader import run_reader
from ops.stack import PostgresServer, ServerSpec, Stack
from tests.reader_kit import INSERT, Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


class Copy:
    """A cold copy of a server's data folder."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._place = Path(f"{server.data}.copy")

    def take(self) -> None:
        """Stops the server for it."""
        assert self._server.stop("fast", 120.0)
        shutil.copytree(self._server.data, self._place)
        self._server.start()

    def put_back(self) -> None:
        """Whatever came since is gone."""
        assert self._server.stop("fast", 120.0)
        owner = self._server.data.stat()
        shutil.rmtree(self._server.data)
        shutil.copytree(self._place, self._server.data)
        for path in [self._server.data, *self._server.data.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)
        self._server.start()


@pytest.fixture
def bed(stack: Stack, unique: str) -> Iterator[Bed]:
    stack.add_server(ServerSpec(unique))
    made = Bed(stack, unique)
    made.provision()
    yield made
    stack.remove_server(unique)


async def read_what_will_be_lost(bed: Bed) -> set[int]:
    """Rows that are in the copy, and then rows that are not; all of them read."""
    copy = Copy(bed.stack[bed.server_name])
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(20)
        await all_arrived(bed)
    await asyncio.to_thread(copy.take)
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(30)
        read = set(await all_arrived(bed))
        positions = bed.settings().topics.positions
        await until(lambda: bed.records(positions)[-1].value["held_id"] == max(read))
    await asyncio.to_thread(copy.put_back)
    return read


async def refused(bed: Bed, words: str) -> None:
    with pytest.raises(errors.ServerChanged, match=words):
        await asyncio.wait_for(run_reader(bed.settings(), asyncio.Event()), 120)


def write_log(bed: Bed) -> None:
    """Log of other tables, so that it ends behind where the reader was."""
    with bed.connect() as conn:
        conn.execute("create table other as select generate_series(1, 200000)")


def nothing(bed: Bed) -> None:
    """The log ends before the reader's position."""


def other_calls(bed: Bed) -> None:
    """More rows than were lost: the same ids, other calls."""
    with bed.connect() as conn:
        conn.execute(INSERT.replace("'call-'", "'other-'"), (100,))
    write_log(bed)


def few_calls(bed: Bed) -> None:
    """Fewer rows than were lost."""
    with bed.connect() as conn:
        conn.execute(INSERT.replace("'call-'", "'other-'"), (5,))
    write_log(bed)


@pytest.mark.parametrize(
    ("since", "words"),
    [
        (nothing, "ahead of the server's log"),
        (other_calls, "is not the one that was read"),
        (few_calls, "and all newer ones are gone"),
        (write_log, "and all newer ones are gone"),
    ],
)
async def test_a_restored_server_is_refused_until_told_otherwise(
    bed: Bed, since: Callable[[Bed], None], words: str
) -> None:
    await read_what_will_be_lost(bed)
    since(bed)
    await refused(bed, words)
    async with bed.reading(bed.settings(accept_server_change=True)) as reader:
        await streaming(reader)
        bed.insert(5)
        await until(lambda: rows(bed) <= arrived(bed))
        assert reader.metrics.gaps_total == 1
    async with bed.reading() as reader:  # and from then on as ever
        await streaming(reader)
        assert reader.metrics.gaps_total == 0


def rows(bed: Bed) -> set[tuple[int, str]]:
    """What the table holds; ids alone are given twice."""
    with bed.connect() as conn:
        return set(conn.execute("select id, call_id from call_state_events"))


def arrived(bed: Bed) -> set[tuple[int, str]]:
    return {(event.row["id"], event.row["call_id"]) for event in bed.events()}


async def test_purged_rows_are_no_other_history(bed: Bed) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        bed.insert(20)
        await all_arrived(bed)
        positions = bed.settings().topics.positions
        await until(lambda: bed.records(positions)[-1].value["held_mark"])
    with bed.connect() as conn:
        conn.execute("delete from call_state_events")
        bed.insert(5)
    async with bed.reading() as reader:
        await streaming(reader)
        assert set(await all_arrived(bed)) == set(range(1, 26))
        assert reader.metrics.gaps_total == 0
