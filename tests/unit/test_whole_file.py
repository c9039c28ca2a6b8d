"""What a command writes is there whole, or as it was before."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ops.whole_file import whole_file


def test_it_takes_its_place_at_the_end(tmp_path: Path) -> None:
    place = tmp_path / "out.csv"
    with whole_file(place) as stream:
        stream.write(b"one")
        assert not place.exists()
    assert place.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
    place.chmod(0o640)
    with pytest.raises(KeyboardInterrupt), whole_file(str(place)) as stream:
        stream.write(b"half of tw")
        raise KeyboardInterrupt
    assert place.read_bytes() == b"one"
    with whole_file(place) as stream:
        stream.write(b"two")
    assert place.read_bytes() == b"two"
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_links_pipes_and_folders(tmp_path: Path) -> None:
    place, link, pipe = tmp_path / "out", tmp_path / "link", tmp_path / "pipe"
    place.write_bytes(b"")
    link.symlink_to(place)
    with whole_file(link) as stream:
        stream.write(b"through it")
    assert link.is_symlink()
    assert place.read_bytes() == b"through it"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    with whole_file(pipe) as stream:
        stream.write(b"as it comes")
    reader.join(10)
    assert heard == [b"as it comes"]
    with pytest.raises(IsADirectoryError), whole_file(tmp_path):
        pass
    nowhere = tmp_path / "nowhere" / "out"
    with pytest.raises(FileNotFoundError) as told, whole_file(nowhere):
        pass
    assert told.value.filename == str(nowhere)
