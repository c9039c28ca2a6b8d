"""`python -m ops.demo_kamailio`."""

from __future__ import annotations

import argparse
import sys

from ops.demo_kamailio.play import run
from ops.errors import OpsError
from ops.stack.errors import StackError


def main() -> int:
    """0 only if every CDR agrees with its caller's log."""
    parser = argparse.ArgumentParser(prog="make demo-kamailio", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    arguments = parser.parse_args()
    try:
        return run(keep=arguments.keep)
    except (OpsError, StackError) as error:
        print(f"{error}\n{error.advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
