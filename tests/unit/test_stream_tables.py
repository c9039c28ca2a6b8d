"""Where open calls are kept: memory and RocksDB do the same."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from cramjam import lz4

from stream_app.call_store import PartitionCalls
from stream_app.errors import StreamAppError
from stream_app.rocks_tables import RocksTables, temporary_folder
from stream_app.table import CallTables, MemoryTables
from tests.unit.test_stream_parts import state


@pytest.fixture(params=["memory", "rocksdb"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CallTables]:
    made: CallTables
    made = MemoryTables() if request.param == "memory" else RocksTables(tmp_path / "calls")
    yield made
    made.close()
    assert not (tmp_path / "calls").exists()


def test_a_partition_is_a_mapping(tables: CallTables) -> None:
    table = tables.new(3)
    assert (len(table), "a" in table, table.get("a"), list(table.items())) == (0, False, None, [])
    table["b"], table["a"] = b"1", b"2"
    table["a"] = b"3"
    assert sorted(table.items()) == [("a", b"3"), ("b", b"1")]
    assert (len(table), table["a"], "b" in table, sorted(table)) == (2, b"3", True, ["a", "b"])
    assert table.pop("a") == b"3"
    assert table.pop("a", None) is None
    with pytest.raises(KeyError):
        table["a"]
    with pytest.raises(KeyError):
        del table["a"]
    assert len(table) == 1


def test_odd_names_are_names(tables: CallTables) -> None:
    table = tables.new(0)
    names = ["", "ü@x", "\udc80", "a" * 5_000, "\x00\xff"]
    for name in names:
        table[name] = name.encode("utf-8", "surrogatepass")
    assert sorted(table) == sorted(names)
    assert table["\udc80"] == "\udc80".encode("utf-8", "surrogatepass")


def test_very_many_calls_are_all_told_while_some_change(tables: CallTables) -> None:
    table = tables.new(7)
    tables.new(8)["other"] = b"o"
    names = [f"{number:05}" for number in range(3_000)]
    for name in names:
        table[name] = name.encode()
    assert list(table.items()) == [(name, name.encode()) for name in names]
    told = []
    for name in PartitionCalls(table, decoded_max=0).all_names():
        told.append(name)
        if len(told) == 1_500:
            del table[names[2_500]]
            table["new"] = b"n"
    assert set(names) - {names[2_500]} <= set(told) <= {*names, "new"}


def test_what_is_counted_and_told_is_what_the_table_holds(tables: CallTables) -> None:
    table, rng = tables.new(4), random.Random(7)
    calls = PartitionCalls(table, decoded_max=3)
    held: set[str] = set()
    for _ in range(60):
        expected: dict[str, bool] = {}
        for name in rng.choices("abcdefghij", k=4):
            known = calls.get(name)
            assert (known is not None) == expected.get(name, name in held)
            if rng.random() < 0.6:
                calls.put(name, known or state(name))
                expected[name] = True
            else:
                calls.delete(name)
                expected[name] = False
        deleted = {name for name, kept in expected.items() if not kept}
        changes = dict(calls.take_changes())
        assert {name for name, encoded in changes.items() if encoded is None} == deleted & held
        held = (held | expected.keys()) - deleted
        assert sorted(table) == sorted(held)
        assert len(calls) == len(held)
    again = PartitionCalls(table, decoded_max=3)
    assert list(again.deadlines(0)) == []
    assert len(again) == len(held)


def test_a_partition_goes_as_a_whole(tables: CallTables) -> None:
    one, other = tables.new(255), tables.new(256)
    one["a"], other["a"], other["z"] = b"1", b"2", b"3"
    tables.drop(255)
    assert sorted(other.items()) == [("a", b"2"), ("z", b"3")]
    again = tables.new(255)
    assert (list(again.items()), len(again)) == ([], 0)


def test_calls_are_taken_up_without_being_decoded(
    tables: CallTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables.new(1)
    calls = PartitionCalls(table, decoded_max=10)
    for name, due_us in (("a", 5), ("b", None), ("c", -7)):
        held = state(name)
        held.deadline_us = due_us
        calls.put(name, held)
    calls.take_changes()
    with monkeypatch.context() as patch:
        patch.setattr("stream_app.call_store.decode_call", None)
        again = PartitionCalls(table, decoded_max=10)
        assert sorted(again.deadlines(6)) == [("a", 5), ("c", -7)]
        assert list(again.deadlines(5)) == [("c", -7)]
    assert sorted(name for name, _ in again.items()) == ["a", "b", "c"]


def test_a_newer_versions_calls_are_refused(tables: CallTables) -> None:
    table = tables.new(1)
    wire = [99, *state("a").to_wire()[1:]]
    table["a"] = b"\x03" + struct.pack(">Bqq", 99, 5, 5) + lz4_of(orjson.dumps(wire))
    with pytest.raises(ValueError, match="version 99"):
        list(PartitionCalls(table, decoded_max=10).deadlines(0))


def lz4_of(data: bytes) -> bytes:
    return bytes(lz4.compress_block(data))


def test_one_folder_serves_one_worker(tmp_path: Path) -> None:
    first = RocksTables(tmp_path)
    first.new(1)["a"] = b"1"
    with pytest.raises(StreamAppError, match="cannot be kept") as refused:
        RocksTables(tmp_path)
    assert "each its own" in refused.value.advice
    assert first.new(2) == {}
    first.close()


def test_what_a_dead_worker_left_is_removed(tmp_path: Path) -> None:
    first = RocksTables(tmp_path)
    first.new(1)["a"] = b"1"
    first._db.close()
    again = RocksTables(tmp_path)
    assert list(again.new(1).items()) == []
    again.close()


_HOLD = """
import sys, pathlib
from stream_app.rocks_tables import RocksTables, temporary_folder
tables = RocksTables(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_the_temporary_folder_of_a_killed_worker_goes_with_the_next_one(tmp_path: Path) -> None:
    killed, alive, new = (tmp_path / f"cdrstream-calls-{name}" for name in ("k", "a", "n"))
    new.mkdir()
    (tmp_path / "cdrstream-calls-file").write_text("no folder")
    workers = []
    for folder in (killed, alive):
        command = [sys.executable, "-c", _HOLD, str(folder)]
        workers.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "open\n"
        workers[0].kill()
        workers[0].wait()
        assert (killed / "LOCK").exists()
        made = temporary_folder(tmp_path)
        assert not killed.exists()
        assert alive.exists()
        assert new.exists()
        assert made.is_dir()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
