"""Two sets of CDRs, both sorted by Call-ID, walked through side by side.

Owns which records belong together. Holds one call at a time, so that sets of any size pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from ops.diff.classify import Difference, classify_several

Row = Mapping[str, Any]


def pair(
    olds: Iterable[Row], news: Iterable[Row], *, tolerance_us: int = 0
) -> Iterator[Difference]:
    """Every call of either side, compared.

    Args:
        olds: Sorted by `call_id` as Python sorts text (PostgreSQL's collation `C`).
        news: The same, with one record a call.
        tolerance_us: See `classify`.

    Raises:
        ValueError: A side is not sorted, the new side has two records of one call, or a time
            cannot be read.
    """
    left, right = _calls(olds), _calls(news)
    old, new = next(left, None), next(right, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None
            yield classify_several(old[1], None, tolerance_us=tolerance_us)
            old = next(left, None)
        elif old is None or new[0] < old[0]:
            yield classify_several([], _only(new[1]), tolerance_us=tolerance_us)
            new = next(right, None)
        else:
            yield classify_several(old[1], _only(new[1]), tolerance_us=tolerance_us)
            old, new = next(left, None), next(right, None)


def _calls(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    before: str | None = None
    for call_id, group in groupby(rows, key=lambda row: str(row["call_id"])):
        if before is not None and call_id <= before:
            raise ValueError(f"records are not sorted by Call-ID: {call_id!r} behind {before!r}")
        before = call_id
        yield call_id, list(group)


def _only(rows: list[Row]) -> Row:
    if len(rows) > 1:
        raise ValueError(f"two new records of one call: {rows[0]['call_id']!r}")
    return rows[0]
