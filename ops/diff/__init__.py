"""How two systems' CDRs differ: an old resolver's and ours. Replays have `ops.replay.diff`.

Pure: rows in, values out. `classify` judges one call, `pair` walks through two sorted sets, `Tally`
counts, `reasons` says what our provenance knows of a difference. Where rows come from and how a
report looks is the caller's.
"""

from __future__ import annotations

from ops.diff.classify import Bill, Difference, Kind, classify, classify_several
from ops.diff.pairing import pair
from ops.diff.reasons import reasons
from ops.diff.tally import Tally

__all__ = [
    "Bill",
    "Difference",
    "Kind",
    "Tally",
    "classify",
    "classify_several",
    "pair",
    "reasons",
]
