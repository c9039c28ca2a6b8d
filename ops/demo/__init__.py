"""The whole system here, with wrong clocks, real traffic, faults, and a check: `make demo`.

Owns the order of events. What is played is in `plan`, what is shown in `screen` and `report`, what
counts as right in `verdict`.
"""

from __future__ import annotations

from ops.demo.play import run

__all__ = ["run"]
