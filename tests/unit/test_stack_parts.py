"""What the stack says when a part is missing, and how it keeps out of others' way."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ops.stack import binaries, cache, faketime, folders, java, ports
from ops.stack.accounts import Account, can_enter
from ops.stack.cache import cache_folder, fetched
from ops.stack.errors import PortTakenError, StackError
from ops.stack.folders import StackFolder
from ops.stack.postgres import ServerSpec
from ops.stack.stack import Stack


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing: an empty PATH (the folder returned), an empty cache."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(binaries, "_DEBIAN", tmp_path / "none")
    monkeypatch.setattr(faketime, "_FOLDERS", ())
    monkeypatch.setattr(cache, "service_account", lambda: None)
    monkeypatch.setenv("CDRSTREAM_CACHE", str(tmp_path / "cache"))
    return programs


def put(programs: Path, name: str, script: str) -> None:
    program = programs / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def java_of(programs: Path, version: str) -> None:
    put(programs, "java", f"echo 'openjdk version \"{version}\" 2020-01-01' >&2")


def test_no_java(bare) -> None:
    with pytest.raises(StackError, match="no Java") as told:
        Stack(1).start()
    assert "apt-get install" in told.value.advice


@pytest.mark.parametrize(("version", "major"), [("1.8.0_292", 8), ("11.0.11", 11), ("16", 16)])
def test_java_is_too_old(bare, version, major) -> None:
    java_of(bare, version)
    with pytest.raises(StackError, match=rf"is Java {major}; .* needs 17"):
        java.java()


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_java_is_good(bare, version) -> None:
    java_of(bare, version)
    assert java.java() == bare / "java"


def test_java_home_goes_first(bare, tmp_path, monkeypatch) -> None:
    java_of(bare, "11")
    home = tmp_path / "jdk" / "bin"
    home.mkdir(parents=True)
    java_of(home, "21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(home.parent))
    assert java.java() == home / "java"


def test_no_maven_and_no_jars(bare) -> None:
    java_of(bare, "17.0.1")
    with pytest.raises(StackError, match="no Maven") as told:
        Stack(0).start()
    assert "apt-get install maven" in told.value.advice


def test_no_postgresql_and_no_maven(bare) -> None:
    with pytest.raises(StackError, match=r"no PostgreSQL 17 on this machine.*no Maven") as told:
        Stack(1, broker=None).start()
    assert "apt-get install postgresql" in told.value.advice


def test_maven_fails(bare) -> None:
    java_of(bare, "17.0.1")
    put(bare, "mvn", "echo '[ERROR] Could not transfer artifact: repo is unreachable'; exit 1")
    with pytest.raises(StackError, match="Could not transfer artifact: repo is unreachable"):
        Stack(0).start()
    assert not list(Path(os.environ["CDRSTREAM_CACHE"]).glob("*kafka-4*[!k]"))


def test_a_version_that_was_never_tried(bare) -> None:
    with pytest.raises(StackError, match=r"no PostgreSQL 9 on this machine") as told:
        binaries.find_binaries("9")
    assert "14, 16, 17, 18" in told.value.advice


def test_no_libfaketime(bare) -> None:
    with pytest.raises(StackError, match="libfaketime is missing") as told:
        faketime.find_library()
    assert "apt-get install libfaketime" in told.value.advice


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("-5.5s", faketime.Clock(-5.5)),
        ("+0.7s x1.00005", faketime.Clock(0.7, 1.00005)),
        ("+0 x1.5", faketime.Clock(0, 1.5)),
    ],
)
def test_clocks(text, clock) -> None:
    assert faketime.Clock.parse(text) == clock
    assert faketime.Clock.parse(str(clock)) == clock


@pytest.mark.parametrize("text", ["", "5s", "+5m", "+1s x0", "+1s x-1", "noon", "+1s;rm"])
def test_clocks_that_are_none(text) -> None:
    with pytest.raises(StackError, match="is not understood"):
        ServerSpec("a", clock=text)


def test_a_drift_counts_from_the_start() -> None:
    assert faketime.Clock(-1.0, 1.001).offset_at(100.0) == pytest.approx(-0.9)


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "x" * 41])
def test_names_that_are_not_allowed(name) -> None:
    with pytest.raises(StackError, match="is not allowed"):
        ServerSpec(name)


def test_names_that_do_not_fit() -> None:
    for specs in ([ServerSpec("a"), ServerSpec("a")], [ServerSpec("kafka")]):
        with pytest.raises(StackError, match="do not fit"):
            Stack(specs)
    with pytest.raises(StackError, match="do not fit"):
        Stack(2, clocks={"c": "+1s"})


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)) as told:
            ports.demand(port)
        assert f"sport = :{port}" in told.value.advice
        assert ports.listening(port)
    ports.demand(port)


def test_a_port_is_not_picked_twice() -> None:
    picked: set[int] = set()
    for _ in range(50):
        picked.add(ports.pick(picked))
    assert len(picked) == 50
    assert max(picked) < 32_768


def test_what_several_need_at_once_is_fetched_once(tmp_path) -> None:
    runs: list[Path] = []

    def make(folder: Path) -> None:
        runs.append(folder)
        assert not (tmp_path / "thing").exists()
        (folder / "jar").write_text("whole")

    # each opens the lock by itself, as processes do
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda _: fetched(tmp_path / "thing", make), range(8)))
    assert len(runs) == 1
    assert {(place / "jar").read_text() for place in places} == {"whole"}


def test_a_download_that_fails_leaves_nothing(tmp_path) -> None:
    def half(folder: Path) -> None:
        (folder / "half").touch()
        raise StackError("no network")

    with pytest.raises(StackError, match="no network"):
        fetched(tmp_path / "thing", half)
    assert [each.name for each in tmp_path.iterdir()] == ["thing.lock"]


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    yield folder
    folder.chmod(0o700)


def test_a_cache_that_the_servers_cannot_read_is_named(closed, monkeypatch) -> None:
    somebody = Account("postgres", os.getuid() + 4_242, os.getgid() + 4_242)
    monkeypatch.setattr(cache, "service_account", lambda: somebody)
    monkeypatch.setenv("CDRSTREAM_CACHE", str(closed / "cache"))
    with pytest.raises(StackError, match="cannot be read by postgres"):
        cache_folder()
    assert not can_enter(closed, somebody)
    assert can_enter(Path("/usr"), somebody)


def test_the_xdg_folder_is_used(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "service_account", lambda: None)
    monkeypatch.delenv("CDRSTREAM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cdrstream"


def test_folders_of_dead_owners_are_swept_and_those_of_live_ones_are_not(tmp_path) -> None:
    alive = StackFolder(tmp_path, None)
    dead = StackFolder(tmp_path, None)
    os.close(dead._lock)  # as the kernel does it for a process that is killed
    foreign = tmp_path / "cdrstream-stack-without-lock"
    foreign.mkdir()
    fresh = StackFolder(tmp_path, None)
    assert not dead.path.exists()
    assert alive.path.exists()
    assert foreign.exists()
    for each in (alive, fresh):
        each.remove()
        assert not each.path.exists()


def test_no_folder_that_the_servers_can_reach_is_named(closed, monkeypatch) -> None:
    somebody = Account("postgres", os.getuid() + 4_242, os.getgid() + 4_242)
    with pytest.raises(StackError, match="not be reached by postgres"):
        folders.StackFolder(closed / "deep", somebody)
