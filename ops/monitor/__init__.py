"""The running system as one picture: who is late, who holds it up, what is wrong.

Owns what `cdrstream status` and the dashboard show. Needs the broker and the sink only, and looks
at the servers' slots where it may; never asks a reader or a worker.
"""

from __future__ import annotations

from ops.monitor.sampler import Sampler, one_look

__all__ = ["Sampler", "one_look"]
