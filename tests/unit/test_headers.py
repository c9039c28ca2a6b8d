"""Addresses out of header values as strangers send them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from callstate.headers import (
    address_of_record,
    contact_without_parameters,
    is_music_on_hold,
    user_part,
)

EXAMPLES = json.loads(
    (Path(__file__).parent.parent / "data" / "examples" / "aux_utils_headers.json").read_text()
)


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("<sip:a@h>;tag=1", "<sip:a@h>"),
        ("<sip:a@h>", "<sip:a@h>"),
        ("sip:a@h;tag=1", "sip:a@h"),
        ("sip:a@h", "sip:a@h"),
        ("", ""),
        ('"Zoë ; =" <sip:a@h>;tag=1', '"Zoë ; =" <sip:a@h>'),
        ("Bob <sip:a@h;user=phone>;tag=1", "Bob <sip:a@h;user=phone>"),
        # parameter names know no case, and white space may stand around `;` and `=`
        ("<sip:a@h>;TAG=1", "<sip:a@h>"),
        ("<sip:a@h>;TaG=1", "<sip:a@h>"),
        ("<sip:a@h>; tag=1", "<sip:a@h>"),
        ("<sip:a@h> ;tag=1", "<sip:a@h>"),
        ("<sip:a@h> ; tag = 1", "<sip:a@h>"),
        ("<sip:a@h>;\ttag=1", "<sip:a@h>"),
        ("<sip:a@h>;x=y;tag=1", "<sip:a@h>;x=y"),
        ("<sip:a@h>;tag=1;x=y", "<sip:a@h>"),
        ("<sip:a@h>;tag", "<sip:a@h>"),
        ("<sip:a@h>;tag=", "<sip:a@h>"),
        ("<sip:a@h>;tags=1", "<sip:a@h>;tags=1"),
        # a tag inside the display name or the URI is none
        ('"x;tag=0" <sip:a@h>;tag=1', '"x;tag=0" <sip:a@h>'),
        ('"x;tag=0" <sip:a@h>', '"x;tag=0" <sip:a@h>'),
        ("<sip:a@h;tag=0>;tag=1", "<sip:a@h;tag=0>"),
        ('"<sip:no@no>;tag=0" <sip:a@h>;tag=1', '"<sip:no@no>;tag=0" <sip:a@h>'),
        (r'"a \" <b" <sip:a@h>;tag=1', r'"a \" <b" <sip:a@h>'),
        (r'"a\\" <sip:a@h>;tag=1', r'"a\\" <sip:a@h>'),
        # the missing `>` is supplied
        ("<sip:a@h;tag=1", "<sip:a@h>"),
        ("<sip:a@h", "<sip:a@h>"),
        ('"A" <sip:a@h ;tag=1', '"A" <sip:a@h>'),
        # quotes that do not balance: what can be saved
        ('"never <sip:a@h>;tag=1', '"never <sip:a@h>'),
        ('a"b <sip:a@h>;tag=1', 'a"b <sip:a@h>'),
    ],
)
def test_address_of_record(header: str, address: str) -> None:
    assert address_of_record(header) == address


@pytest.mark.parametrize(
    ("contact", "bare"),
    [
        ("", ""),
        ("<sip:a@h>", "<sip:a@h>"),
        ("<sip:a@h;x=1;y>;q=0.5", "<sip:a@h>"),
        ("<sip:a@h>;expires=60", "<sip:a@h>"),
        ("sip:a@h;x=1", "sip:a@h"),
        ('"A;B" <sip:a@h;x>', '"A;B" <sip:a@h>'),
        ('"<;>" <sip:a@h;x>', '"<;>" <sip:a@h>'),
        ("<sip:a@h;x=1", "<sip:a@h>"),
        ("<sip:a@h", "<sip:a@h>"),
        ("*", "*"),
    ],
)
def test_contact_without_parameters(contact: str, bare: str) -> None:
    assert contact_without_parameters(contact) == bare


@pytest.mark.parametrize(
    ("header", "user"),
    [
        ("<sip:200@h>", "200"),
        ('"a@b" <sip:200@h>;tag=x@y', "200"),
        ("sip:200@h", "200"),
        ("<sip:h>", ""),
        ("<tel:+4930>", ""),
        ("", ""),
        ("<sips:~~mh~7@h>", "~~mh~7"),
    ],
)
def test_user_part(header: str, user: str) -> None:
    assert user_part(header) == user


def test_music_on_hold_is_a_user_and_no_name() -> None:
    assert is_music_on_hold("<sip:~~mh~200@h>")
    assert not is_music_on_hold('"~~mh~" <sip:200@h>')


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in EXAMPLES
        if case["function"] in ("get_aor_from_header", "contact_without_params")
        and isinstance(case["expected"], str)
        and not case["source"].startswith("observed")  # the old system's habits, not its rules
    ],
    ids=lambda case: case["args"][0][:40],
)
def test_worked_examples(case: dict[str, object]) -> None:
    args, function = case["args"], case["function"]
    assert isinstance(args, list)
    reads = {
        "get_aor_from_header": address_of_record,
        "contact_without_params": contact_without_parameters,
    }[str(function)]
    assert reads(args[0]) == case["expected"]


@pytest.mark.parametrize(
    "header",
    [
        '"' * 2**18,
        "<" * 2**18,
        ";" * 2**18,
        " ;" * 2**17,
        "\\" * 2**18,
        '\\"' * 2**17 + "<sip:a@h>;tag=1",
        '"a' * 2**17 + "<sip:a@h;tag=1",
        "<sip:a@h>" + "; " * 2**17 + "tag",
        "<sip:a@h>" + " \t" * 2**17,
        "x" * 2**18 + "<sip:a@h>;tag=1",
    ],
    ids=["quotes", "brackets", "semicolons", "spaces", "backslashes", "escapes", "names", "tag",
         "blanks", "long"],
)  # fmt: skip
@pytest.mark.parametrize("read", [address_of_record, contact_without_parameters, user_part])
def test_a_long_header_takes_no_longer_than_its_length(
    header: str, read: Callable[[str], str]
) -> None:
    began = time.process_time()
    read(header)
    assert time.process_time() - began < 10  # minutes, where it backtracks
