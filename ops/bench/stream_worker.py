"""A worker as a process to be measured: settings as JSON, and where to put a profile."""

from __future__ import annotations

import cProfile
import json
import sys

from callstate.config import ResolutionConfig, TimeCorrection
from ops import logs
from stream_app.settings import WorkerSettings
from stream_app.worker import run_worker


def main() -> int:
    """Runs until SIGTERM."""
    logs.configure("info", "json")
    told = json.loads(sys.argv[1])
    told["resolution"]["servers"] = tuple(told["resolution"]["servers"])
    told["resolution"]["time_correction"] = TimeCorrection(told["resolution"]["time_correction"])
    told["resolution"] = ResolutionConfig(**told["resolution"])
    settings = WorkerSettings(**told)
    if len(sys.argv) < 3:
        return run_worker(settings)
    profile = cProfile.Profile()
    code = profile.runcall(run_worker, settings)
    profile.dump_stats(sys.argv[2])
    return code


if __name__ == "__main__":
    sys.exit(main())
