"""`python -m ops.stack`: fetches what a stack needs, so that the first start is a quick one."""

from __future__ import annotations

import sys

from ops.stack.binaries import find_binaries
from ops.stack.cache import cache_folder
from ops.stack.errors import StackError
from ops.stack.faketime import find_library
from ops.stack.jars import KAFKA_VERSION, kafka_jars
from ops.stack.java import java


def main() -> int:
    """Looks for every part, fetches those that can be; 1 when one is missing."""
    missing = 0
    for name, find in (
        ("cache", cache_folder),
        ("Java", java),
        (f"Kafka {KAFKA_VERSION}", kafka_jars),
        ("PostgreSQL", lambda: find_binaries().folder),
        ("libfaketime", find_library),
    ):
        try:
            print(f"{name}: {find()}")
        except StackError as error:
            missing = 1
            print(f"{name}: {error}; {error.advice}", file=sys.stderr)
    return missing


if __name__ == "__main__":
    sys.exit(main())
