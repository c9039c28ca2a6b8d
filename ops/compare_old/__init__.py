"""An old resolver's CDRs beside ours, call by call: `cdrstream compare-old`.

For shadow mode: ours are written to a schema of their own while the old resolver goes on. What kind
of difference there is, `ops.diff` says; this package reads both sides and tells the result.
"""

from __future__ import annotations
