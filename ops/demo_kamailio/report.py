"""What the demo tells at its end: each call beside its record.

Owns the words. Refuses to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ops.simulation.score import Judged, Score, Verdict


def tell(score: Score, troubles: Sequence[str], rows: Mapping[str, int]) -> None:
    """One line a call, what is wrong with those that are, and the verdict."""
    for one in score.judged:
        print(f"  {one.verdict.value:8} {one.scenario}")
        for line in _differences(one):
            print(f"           {line}")
    for trouble in troubles:
        print(f"  TROUBLE  {trouble}")
    written = ", ".join(f"{count} by proxy {name}" for name, count in rows.items())
    print(f"rows written: {written}")
    print(sentence(score, troubles))


def sentence(score: Score, troubles: Sequence[str]) -> str:
    """The verdict."""
    right = f"{score.count(Verdict.RIGHT)} of {score.expected} CDRs agree with their callers' logs"
    if score.flawless and not troubles:
        return f"{right}: none wrong, none missing, none twice"
    return f"{right}; {len(score.faults())} faults, {len(troubles)} troubles"


def _differences(one: Judged) -> list[str]:
    return [
        f"{column}: the caller says {want!r}, the record {have!r}"
        for column, (want, have) in one.wrong.items()
    ]
