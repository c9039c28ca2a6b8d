"""The calls that a call names as the rest of its chain."""

from __future__ import annotations

import pytest

from callstate.chains import chained_calls


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("", ()),
        ("p;rel=chain", ("p",)),
        ("p;rel=chain,q;rel=chain", ("p", "q")),
        ("p;rel=chain,p;rel=chain", ("p",)),
        (" p ; rel=chain , q;rel=refer,x;rel=xfer", ("p",)),
        ("p;rel=refer", ()),
        ("p;rel=chained", ()),
        ("p", ()),
        ("rel=chain", ()),
        (";rel=chain", ()),
        ("p;x=y;rel=chain", ("p",)),
        (",,p;rel=chain,", ("p",)),
        ("me;rel=chain", ()),
        ("me;rel=chain,p;rel=chain", ()),
    ],
)
def test_chained_calls(reference: str, named: tuple[str, ...]) -> None:
    assert chained_calls(reference, "me") == named


def test_a_long_reference_is_read_in_the_time_of_its_length() -> None:
    reference = ",".join(f"c{n};rel=chain" for n in range(20_000))
    assert len(chained_calls(reference, "me")) == 20_000
    assert chained_calls(";" * 2**18 + "rel=chain", "me") == ()
