"""References between calls: which calls one names as the rest of its own chain.

Owns the reading of the `reference` column. A call that names others by `;rel=chain` is a leg inside
a longer call and has no CDR of its own, but only when *every* call that it names is known.
"""

from __future__ import annotations

_CHAIN = "rel=chain"


def chained_calls(reference: str, call_id: str) -> tuple[str, ...]:
    """The Call-IDs that `reference` names with `rel=chain`, in order, each once.

    A call that names itself names nobody: then no chain can be complete, and `()` is returned.
    """
    if _CHAIN not in reference:
        return ()
    named: dict[str, None] = {}
    for item in reference.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if _CHAIN in parameters:
            named[name] = None
    if call_id in named or "" in named:
        return ()
    return tuple(named)
