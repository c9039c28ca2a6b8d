"""Who may read a file.

Owns that question, for the configuration and for keys.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def others_may_read(path: str | Path) -> bool:
    """Whether anybody but its owner may."""
    return os.name == "posix" and bool(Path(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
