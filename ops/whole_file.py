"""A file that a command writes: there whole, or as it was before.

Owns that. Who reads what a command left behind (a bill, a report, a night's job) does not see its
exit code: half a file must not look like one. What is no ordinary file is written as it comes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """The file to write to; it takes its place at the end of the block, if that ends well.

    Raises:
        OSError: The file cannot be written, by the name that was given.
    """
    place = Path(path).resolve()  # a link stays one
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if place.exists() and not place.is_file():
        with place.open("wb") as stream:
            yield stream
        return
    part = place.with_name(f".{place.name[:200]}.{os.getpid()}.part")
    try:
        # Rights as for any new file, unlike those of a temporary one.
        stream = part.open("xb")
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with stream:
            if place.exists():
                os.fchmod(stream.fileno(), place.stat().st_mode & 0o7777)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(place)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
