"""Which user the servers run as, and whether that user can reach a folder.

PostgreSQL refuses to run as root, so a stack that root starts runs as another account. Owns the
choice. Refuses to create accounts.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.stack.errors import StackError

_CANDIDATES: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A user that is not root."""

    name: str
    uid: int
    gid: int


def service_account() -> Account | None:
    """The account that servers run as; None is the caller's own, which is not root's.

    Raises:
        StackError: The caller is root and there is no other account.
    """
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise StackError(
        "PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody`",
        "create one: useradd --system postgres",
    )


def can_enter(folder: Path, account: Account | None) -> bool:
    """Whether `account` may enter an existing folder and read what is in it."""
    if account is None:
        return os.access(folder, os.R_OK | os.X_OK)
    path = folder.resolve()
    return all(_may(each, account, stat.S_IXOTH) for each in (path, *path.parents)) and _may(
        path, account, stat.S_IROTH
    )


def _may(path: Path, account: Account, other_bit: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & (other_bit << 6))
    if status.st_gid == account.gid:
        return bool(status.st_mode & (other_bit << 3))
    return bool(status.st_mode & other_bit)
