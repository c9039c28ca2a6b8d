"""What happens in a call: every scenario, and how often each occurs in a mix.

Owns the names of scenarios and mixes. A scenario is a function of a `World` and a start time in
true microseconds; it returns the calls that it plays, each with its observations and its truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ops.simulation.scenarios import answered, damaged, related, unanswered
from ops.simulation.script import CallScript, World

Scenario = Callable[[World, int], list[CallScript]]

_PLAYED: Final[tuple[tuple[Scenario, float], ...]] = (
    # share of calls, in per mille of the usual mix
    (answered.simple, 265.0),
    (answered.two_hop, 120.0),
    (answered.three_hop, 10.0),
    (answered.bye_other, 35.0),
    (answered.spread_classic, 30.0),
    (answered.auth407, 65.0),
    (answered.auth407_other, 55.0),
    (answered.auth401, 12.0),
    (answered.failover503, 18.0),
    (answered.same_id_retry, 8.0),
    (answered.seqfork, 24.0),
    (answered.seqfork487, 8.0),
    (answered.parallel_fork, 15.0),
    (answered.parallel_race, 8.0),
    (answered.reinvite_classic, 24.0),
    (answered.reinvite_head, 18.0),
    (answered.reinvite_failed, 4.0),
    (answered.late_answer, 4.0),
    (unanswered.busy, 45.0),
    (unanswered.failed_misc, 35.0),
    (unanswered.abandoned, 52.0),
    (unanswered.noanswer408, 17.0),
    (unanswered.silent, 4.0),
    (unanswered.auth401_given_up, 3.0),
    (unanswered.fork_all_fail, 5.0),
    (unanswered.end_481, 4.0),
    (related.transfer_blind, 14.0),
    (related.transfer_by_caller, 4.0),
    (related.transfer_unended, 2.0),
    (related.transfer_consult, 10.0),
    (related.slow_transfer, 3.0),
    (related.chain, 24.0),
    (related.page_chain, 2.0),
    (related.chain_unknown_leg, 6.0),
    (related.chain_half_known, 2.0),
    (related.moh, 8.0),
    (damaged.lost_bye, 8.0),
    (damaged.lost_invite, 6.0),
    (damaged.lost_setup, 6.0),
    (damaged.only_bye, 3.0),
    (damaged.weird, 8.0),
    (damaged.malformed_upper_tag, 1.5),
    (damaged.malformed_space_tag, 1.5),
    (damaged.malformed_bracket, 1.5),
    (damaged.malformed_bigint, 1.5),
    (damaged.malformed_quote, 1.0),
    (damaged.malformed_no_from_tag, 1.0),
    (damaged.malformed_no_to_tag, 1.0),
)

SCENARIOS: Final[Mapping[str, Scenario]] = {play.__name__: play for play, _ in _PLAYED}

_USUAL: Final = {play.__name__: share for play, share in _PLAYED}
_CROSSING: Final = frozenset(
    (
        "two_hop",
        "three_hop",
        "bye_other",
        "spread_classic",
        "auth407_other",
        "failover503",
        "seqfork",
        "seqfork487",
        "parallel_fork",
        "fork_all_fail",
    )
)

MIXES: Final[Mapping[str, Mapping[str, float]]] = {
    "usual": _USUAL,
    "even": dict.fromkeys(_USUAL, 1.0),
    "crossing": {name: share for name, share in _USUAL.items() if name in _CROSSING},
    "plain": {"simple": 1.0},
}


def read_mix(text: str) -> dict[str, float]:
    """A mix by name (`usual`), or as `scenario=share,...`.

    Raises:
        ValueError: With the unknown name and the allowed ones.
    """
    if text in MIXES:
        return dict(MIXES[text])
    mix: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = item.strip().partition("=")
        if name not in SCENARIOS:
            allowed = ", ".join([*MIXES, *SCENARIOS])
            raise ValueError(f"unknown mix or scenario {name!r}; known are: {allowed}")
        mix[name] = float(share or 1.0)
    return mix
