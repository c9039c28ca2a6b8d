"""What a reader notices besides rows: room of the slot, ids that are held, columns, clocks set."""

from __future__ import annotations

import pytest

from callstate.events import Clock
from cdc.clock_probe import Reading, StepWatch
from cdc.drift import SCHEMA_7, differences
from cdc.encodings import codec_of
from cdc.held_rows import Above, Found, HeldRows, lost_rows, other_history
from cdc.position_store import StoredPosition, decode
from cdc.rows import Column
from cdc.slot_room import SlotRoom

MB = 1024 * 1024


def room(*safe_mb: int | None, warn_seconds: float = 3_600.0) -> SlotRoom:
    made = SlotRoom(warn_seconds)
    for n, each in enumerate(safe_mb):
        made.add(n * 10.0, None if each is None else each * MB)
    return made


def test_the_time_left_is_what_the_rate_of_the_last_minutes_gives() -> None:
    shrinking = room(1_000, 990, 980)
    assert shrinking.seconds_left == 980.0  # 1 MB a second
    assert shrinking.alarming("extended", 0)
    assert not room(1_000, 990, 980, warn_seconds=600.0).alarming("extended", 0)


@pytest.mark.parametrize("safe", [(1_000,), (1_000, 900), (900, 950, 1_000), (5, 9, 5), (None,)])
def test_no_forecast_where_nothing_shrinks_or_is_known(safe: tuple[int | None, ...]) -> None:
    assert room(*safe).seconds_left is None


def test_alarms() -> None:
    assert room(100, 100, 100).alarming("extended", 900 * MB)  # 10 % of the room is left
    assert not room(500, 500, 500).alarming("extended", 500 * MB)
    assert room(500).alarming("unreserved", None)
    assert room(-1).seconds_left == 0.0
    assert not room(None).alarming("reserved", 10**15), "no limit, no end"


def test_room_that_came_back_is_no_alarm() -> None:
    sawtooth = room(*[1_000 - 50 * (n % 5) for n in range(30)])
    assert not sawtooth.alarming("reserved", 0)


def test_ids_are_held_when_the_log_behind_them_is() -> None:
    held = HeldRows()
    held.add(100, 7, "seven")
    held.add(300, 9, "nine")
    held.passed(99)
    assert held.held_id is None
    held.passed(250)
    assert (held.held_id, held.mark) == (7, "seven")
    held.passed(300)
    assert (held.held_id, held.mark) == (9, "nine")
    held.add(350, 8, "eight")  # the newest was purged
    held.passed(350)
    assert (held.held_id, held.mark) == (9, "nine")
    for n in range(2_000):
        held.add(400 + n, 10 + n, str(n))
    held.passed(5_000)
    assert (held.held_id, held.mark) == (2_009, "1999")


@pytest.mark.parametrize(
    ("found", "other"),
    [
        (Found("mine", has_older=True, has_newer=True), None),
        (Found("mine", has_older=False, has_newer=False), None),
        (Found(None, has_older=False, has_newer=False), None),  # purged, as all before it
        (Found(None, has_older=False, has_newer=True), None),
        (Found(None, has_older=True, has_newer=True), None),  # taken out alone
        (Found(None, has_older=True, has_newer=False), "all newer ones are gone"),
        (Found("another", has_older=True, has_newer=True), "not the one"),
    ],
)
def test_another_row_in_its_place_is_another_history(found: Found, other: str | None) -> None:
    why = other_history(7, "mine", found)
    assert why is None if other is None else other in str(why)


@pytest.mark.parametrize(
    ("held", "above", "rows", "words"),
    [
        (None, Above(5, 1, 9), None, "cannot be told"),
        (10, None, None, "cannot be told"),
        (10, Above(0, None, None), None, "no row above id 10 is left"),
        (10, Above(5, 11, 15), 0, "no row was purged"),
        (10, Above(3, 13, 15), 2, "up to 2 rows with ids between 11 and 15"),
    ],
)
def test_lost_rows(held: int | None, above: Above | None, rows: int | None, words: str) -> None:
    found, said = lost_rows(held, above)
    assert found == rows
    assert words in said


def test_differences_of_columns() -> None:
    columns = [Column(name, oid) for name, oid in SCHEMA_7["call_state_events"].items()]
    assert differences("call_state_events", columns) == {}
    changed = [each for each in columns if each.name != "contact"]
    changed[0] = Column("id", 1700)
    assert differences("call_state_events", [*changed, Column("site", 25)]) == {
        "missing": "contact",
        "added": "site",
        "retyped": "id",
    }


@pytest.mark.parametrize(
    ("encoding", "byte", "text"),
    [
        ("LATIN1", b"\xe9", "é"),
        ("LATIN9", b"\xa4", "€"),
        ("WIN1252", b"\x80", "€"),
        ("WIN1251", b"\xff", "я"),
        ("KOI8R", b"\xc1", "а"),
        ("ISO_8859_5", b"\xd0", "а"),
        ("EUC_JP", b"\xa4\xa2", "あ"),
        ("SQL_ASCII", "é".encode(), "é"),
        ("EUC_TW", b"\xff", "\ufffd"),
        ("MULE_INTERNAL", b"\xff", "\ufffd"),
    ],
)
def test_every_encoding_is_read_and_none_stops(encoding: str, byte: bytes, text: str) -> None:
    codec = codec_of(encoding)
    assert codec is not None
    assert byte.decode(codec, "replace") == text
    b"\x00\x80\x81\xfe\xff".decode(codec, "replace")


def test_utf8_needs_no_codec() -> None:
    assert codec_of("UTF8") is None


def test_a_step_is_told_from_drift() -> None:
    watch = StepWatch()
    second = 1_000_000
    assert not watch.stepped(Reading(0, 0, 300))
    assert not watch.stepped(Reading(second + 100, second, 300)), "100 ppm"
    assert watch.stepped(Reading(2 * second + 2_000, 2 * second, 300)), "2 ms in a second"
    assert not watch.stepped(Reading(3 * second + 2_000, 3 * second, 300)), "said once"
    assert watch.stepped(Reading(4 * second - 1_500_000, 4 * second, 300))


def test_positions_of_older_versions_are_read() -> None:
    value = StoredPosition(1, "s", 1, "slot", coverage="c", held_id=3, held_mark="m").encode("a")
    assert (decode(value).held_id, decode(value).held_mark) == (3, "m")
    old = value.replace(b',"coverage":"c","held_id":3,"held_mark":"m","clock":null', b"")
    assert old != value
    assert decode(old) == StoredPosition(1, "s", 1, "slot")


def test_what_is_known_of_a_clock_is_stored_with_the_position() -> None:
    position = StoredPosition(1, "s", 1, "slot", clock=Clock(False, 900, -5_500_000), clock_at_us=7)
    assert decode(position.encode("a")) == position
