"""A Call-ID that begins again when its first call has left the state: two calls, told apart.

Owns how that shows (the two have no event in common) and the later call's name, the one that
`callstate.telling` gives to a use that it knows to be a later one. Refuses to know where either is
kept. Nobody asks the database about every new call: who writes finds the earlier one in the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from callstate.cdr import Cdr, Provenance

NOTE: Final = "this Call-ID was used before by another call"
NAMES_MAX: Final = 2  # a third call with the second's tag as well gets the last name there is


def is_another(held: Provenance, told: Provenance) -> bool:
    """Whether what is told is another call than the one that is held under the same name.

    Revisions of one call share events: the state that tells the second knows those of the first.
    A state that knows both as uses of one Call-ID names the held one among the later uses. The sink
    asks the same in SQL: `statements/reused.sql`.
    """
    before = {(event["server"], event.get("id")) for event in held.events}
    now = {(event["server"], event.get("id")) for event in told.events}
    if not before or not now or not before.isdisjoint(now):
        return False
    tags = {event.get("from_tag", "") for event in held.events}
    return tags.isdisjoint(
        use.removeprefix(f"{told.call_id};from-tag=") for use in told.basis.get("uses", ())
    )


def begun_again(why: Provenance, cdr: Cdr | None) -> tuple[Provenance, Cdr | None]:
    """The later call under a name of its own; under one more if that is taken too.

    `;` cannot be part of a Call-ID, so no such name can be another call's.
    """
    if NOTE not in why.notes:
        tag = cdr.from_tag if cdr is not None else why.events[0].get("from_tag", "")
        name = f"{why.call_id};from-tag={tag}"
    else:
        first = min(why.events, key=lambda event: (event["server"], event["id"] or 0))
        name = f"{why.call_id};row={first['server']}/{first['id']}"
    notes = (*(note for note in why.notes if note != NOTE), NOTE)
    return (
        why._replace(call_id=name, notes=notes),
        None if cdr is None else cdr._replace(call_id=name),
    )


def names_of(why: Provenance) -> list[str]:
    """The name of a later call and of uses that it has itself."""
    return [why.call_id, *why.basis.get("uses", ())]


def knowing(why: Provenance, names: Iterable[str]) -> Provenance:
    """The earlier call, knowing the names of later ones: `callstate.recall` takes them all up."""
    uses = list(why.basis.get("uses", ()))
    uses += [name for name in names if name not in uses]
    return why._replace(basis={**why.basis, "uses": uses})
