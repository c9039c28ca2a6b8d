"""Real proxies and phones as a source: Kamailio, SIPp, and the callers' own logs as the truth.

`make demo-kamailio`. Owns the order of events (`play`); what the proxies do is in
`examples/kamailio`, for operators to take.
"""

from __future__ import annotations

from ops.demo_kamailio.play import run

__all__ = ["run"]
