"""The folder outside the work tree where downloads are kept, and one download at a time.

Owns where it is (`CDRSTREAM_CACHE`, else the XDG cache folder, else `/var/cache` for root), and
that a thing in it is either whole or not there: it is made beside its place and renamed, under a
lock that other processes respect. Refuses to know what is downloaded.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ops.stack.accounts import Account, can_enter, service_account
from ops.stack.errors import StackError

_NAME: Final = "cdrstream"
_ROOTS_OWN: Final = Path("/var/cache")
_LINK_FOLDER_MODE: Final = 0o755


def cache_folder() -> Path:
    """The cache, made if need be; the account that servers run as can read it.

    Raises:
        StackError: It cannot be made, or that account cannot enter it.
    """
    account = service_account()
    told = os.environ.get("CDRSTREAM_CACHE")
    if told:
        folder = _made(Path(told).expanduser().absolute())
        if not can_enter(folder, account):
            raise _unreachable(folder, account)
        return folder
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else _home() / ".cache"
    if account is None:
        return _made(base / _NAME if _writable(base) else _homeless())
    # root's home is closed to others, who could not read the jars there
    if base.is_dir() and can_enter(base, account):
        return _made(base / _NAME)
    return _made(_ROOTS_OWN / _NAME)


def fetched(place: Path, make: Callable[[Path], None]) -> Path:
    """`place`, which `make` fills when it is not there yet; or the same thing fetched by root.

    Args:
        place: A folder inside the cache.
        make: Fills the empty folder that it is given; may raise.
    """
    if place.is_dir():
        return place
    shared = _ROOTS_OWN / _NAME / place.name
    if not os.environ.get("CDRSTREAM_CACHE") and _roots_and_open(shared):
        return shared
    with locked(place.with_name(place.name + ".lock")):
        if place.is_dir():  # another process made it while we waited
            return place
        half = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            make(half)
            half.chmod(_LINK_FOLDER_MODE)
            half.rename(place)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return place


def _roots_and_open(shared: Path) -> bool:
    """Whether root fetched this for the machine: what others could change is not run."""
    with suppress(OSError):
        return shared.stat().st_uid == 0 and os.access(shared, os.R_OK | os.X_OK)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock between processes; the kernel lets go when one of them dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _writable(base: Path) -> bool:
    """Whether `base`, or the nearest folder above it that exists, can be written."""
    while not base.exists():
        base = base.parent
    return os.access(base, os.W_OK)


def _homeless() -> Path:
    """For accounts such as `nobody`, whose home does not exist."""
    folder = Path(f"/var/tmp/{_NAME}-cache-{os.geteuid()}")  # noqa: S108  checked below
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StackError(
            f"{folder} belongs to somebody else", "name another folder: CDRSTREAM_CACHE=DIR"
        )
    return folder


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=_LINK_FOLDER_MODE)
    except OSError as error:
        raise StackError(
            f"cannot make the folder for downloads {folder}: {error.strerror}",
            "name one that can be written: CDRSTREAM_CACHE=/var/tmp/cdrstream-cache",
        ) from error
    if not os.access(folder, os.W_OK):
        raise StackError(
            f"the folder for downloads {folder} cannot be written",
            "name one that can be: CDRSTREAM_CACHE=/var/tmp/cdrstream-cache",
        )
    return folder


def _unreachable(folder: Path, account: Account | None) -> StackError:
    name = account.name if account else "the servers' account"
    return StackError(
        f"CDRSTREAM_CACHE={folder} cannot be read by {name}, which the servers run as",
        "name a folder that others may enter, e.g. /var/cache/cdrstream",
    )
