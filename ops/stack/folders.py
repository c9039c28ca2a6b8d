"""The stack's own folder: where it is made, who can reach it, and that it goes in the end.

A stack whose owner is killed is removed by its keepers. One whose owner is killed just while it
ends, or whose machine crashes, is removed by the next stack: an owner holds a lock in its folder,
which the kernel lets go when it dies. Refuses to know what lies inside.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from ops.stack.accounts import Account, can_enter
from ops.stack.errors import StackError

_PREFIX: Final = "cdrstream-stack-"
_LOCK: Final = "owner.lock"


class StackFolder:
    """A new folder that the servers' account can reach, ours until `remove`."""

    def __init__(self, parent: Path | None, account: Account | None) -> None:
        where = _reachable(parent, account)
        _sweep(where)
        fresh = Path(tempfile.mkdtemp(prefix=".cdrstream-", dir=where))
        self._lock = os.open(fresh / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # only now others may find it: a sweep must never see it without its lock held
        self.path = fresh.rename(where / (_PREFIX + fresh.name.removeprefix(".cdrstream-")))
        self.sockets = self.path / "s"
        self.sockets.mkdir()
        if account:
            # others may pass through to the servers' own folders, which are closed
            self.path.chmod(0o711)
            shutil.chown(self.sockets, account.uid, account.gid)

    def remove(self) -> None:
        """Removes it with all that is inside."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _reachable(parent: Path | None, account: Account | None) -> Path:
    # TMPDIR may lie where only root gets, so it is not the only one
    shared = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  mkdtemp makes a private one inside
    candidates = [parent] if parent else [Path(tempfile.gettempdir()), *shared]
    for each in candidates:
        with suppress(OSError):
            each.mkdir(parents=True, exist_ok=True)
            if os.access(each, os.W_OK) and can_enter(each, account):
                return each.resolve()
    where = ", ".join(str(each) for each in candidates)
    raise StackError(
        f"no folder for the stack: {where} cannot be written"
        + (f", or not be reached by {account.name}, which the servers run as" if account else ""),
        "name another one, e.g. a folder under /var/tmp",
    )


def _sweep(where: Path) -> None:
    """Removes folders of stacks of ours whose owners are dead."""
    for folder in where.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
