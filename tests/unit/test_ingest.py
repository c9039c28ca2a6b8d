"""Files into records: every form gives the reader's own bytes, and bad rows stop nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from callstate.envelope import read_message
from callstate.events import CallEvent, Clock
from ops.errors import OpsError, UsageError
from ops.file_events import Bad, Counted, Good, IngestOptions, records
from ops.table_files import TABLE_COLUMNS

ROW: dict[str, Any] = {
    **dict.fromkeys(TABLE_COLUMNS),
    "id": 7,
    "observer": "proxy:5060",
    "event_seq": 1,
    "event_time": "2024-03-04T09:00:00.431Z",
    "event_type": "R",
    "cseq": 1,
    "call_id": "c@h",
    "from_tag": "",
    "from_url": '"Bo, ""b"\t\\" <sip:b@x>;tag=1\nü',
    "to_url": "<sip:2@x>",
    "failure_status": 0,
    "caller_internal": True,
}


def csv(row: dict[str, Any]) -> str:
    def field(name: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return "t" if value else "f"
        text = str(value)
        if name == "event_time":
            return text.replace("T", " ").removesuffix("Z")
        return '"' + text.replace('"', '""') + '"' if not text or set(text) & set(',"\n') else text

    return ",".join(field(name, value) for name, value in row.items()) + "\n"


def copy(row: dict[str, Any]) -> str:
    def field(name: str, value: Any) -> str:
        if value is None:
            return "\\N"
        if isinstance(value, bool):
            return "t" if value else "f"
        text = str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        return text.replace("T", " ").removesuffix("Z") if name == "event_time" else text

    return "\t".join(field(name, value) for name, value in row.items()) + "\n"


def read(text: str, **options: Any) -> tuple[list[Good], list[Bad]]:
    lines = iter(text.encode().splitlines(keepends=True))
    found = list(records(lines, IngestOptions("a", **options), Counted()))
    return (
        [each for each in found if isinstance(each, Good)],
        [each for each in found if isinstance(each, Bad)],
    )


HEADER = ",".join(TABLE_COLUMNS) + "\n"
DUMP = (
    "--\nSET client_encoding = 'UTF8';\nCOPY public.cdrs (id) FROM stdin;\n1\n\\.\n"
    f"COPY public.call_state_events ({', '.join(TABLE_COLUMNS)}) FROM stdin;\n"
    f"{copy(ROW)}\\.\nSELECT 1;\n"
)


@pytest.mark.parametrize(
    "text",
    [orjson.dumps(ROW).decode() + "\n", HEADER + csv(ROW), copy(ROW), DUMP],
    ids=["jsonl", "csv", "copy", "dump"],
)
def test_every_form_gives_the_same_record(text: str) -> None:
    (good,), bad = read(text)
    assert not bad
    message = orjson.loads(good.value)
    assert message == {
        "v": 1,
        "server": "a",
        "lsn": "0/0",
        "commit_time": None,
        "clock": None,
        "row": ROW,
    }
    assert list(message["row"]) == list(TABLE_COLUMNS)
    assert good.key == "c@h"
    assert isinstance(read_message("event", message), CallEvent)


def test_an_envelope_goes_on_as_it_is() -> None:
    clock = {"offset_ms": -5_500.0, "error_ms": 0.5}
    envelope = {"v": 1, "server": "b", "lsn": "0/1", "commit_time": None, "clock": clock}
    text = orjson.dumps({**envelope, "row": ROW}).decode() + "\n"
    beat = orjson.dumps({"v": 1, "server": "b", "progress_us": 1, "lsn": "0/1", "clock": None})
    (good,), bad = read(text + beat.decode() + "\n")
    assert not bad
    assert orjson.loads(good.value) == {**envelope, "row": ROW}
    assert good.server == "b"


def test_a_clock_is_stamped_when_told() -> None:
    (good,), _ = read(HEADER + csv(ROW), clock=Clock(late=True, error_us=1_500, offset_us=-2_000))
    clock = orjson.loads(good.value)["clock"]
    assert clock == {"offset_ms": -2.0, "error_ms": 1.5, "late": True}


def test_bad_rows_are_named_by_line_and_stop_nothing() -> None:
    later = {**ROW, "id": 8, "from_url": "plain"}
    text = HEADER + csv(ROW) + "1,2,3\n" + csv({**ROW, "cseq": "x"}) + csv({**ROW, "call_id": ""})
    text += '9,"open quote\n' + csv(later)
    good, bad = read(text)
    assert [orjson.loads(each.value)["row"]["id"] for each in good] == [7, 8]
    # the row of two lines begins at line 2
    assert [(each.line, each.reason) for each in bad] == [
        (4, "3 columns, 22 were announced"),
        (5, bad[1].reason),
        (7, "call_id is absent"),
        (9, "a quote is not closed"),
    ]
    assert "not of its column's type" in bad[1].reason


def test_json_that_is_none_and_lone_surrogates() -> None:
    odd = orjson.dumps({**ROW, "from_url": "X"}).decode().replace('"X"', '"\\ud800"')
    good, bad = read(f"{odd}\nnot json\n[1]\n\n")
    assert orjson.loads(good[0].value)["row"]["from_url"] == "\ufffd"
    assert [each.line for each in bad] == [2, 3]


def test_copy_text_with_columns_of_its_own() -> None:
    (good,), bad = read(
        "c\tR\t2024-03-04 09:00:00\t\\x41\\103\n",
        columns=("call_id", "event_type", "event_time", "from_url"),
    )
    assert not bad
    assert orjson.loads(good.value)["row"] == {
        "call_id": "c",
        "event_type": "R",
        "event_time": "2024-03-04T09:00:00Z",
        "from_url": "AC",
    }


@pytest.mark.parametrize("text", ["id,observer\n1,x\n", "call_id,call_id\n"])
def test_columns_that_are_not_the_tables_are_bad_usage(text: str) -> None:
    with pytest.raises(UsageError):
        read(text)


def test_an_empty_file(tmp_path: Path) -> None:
    assert read("") == ([], [])


@pytest.mark.parametrize(
    "dump",
    [
        "--\nINSERT INTO public.call_state_events VALUES (1, 'proxy:5060');\n",
        "--\nCOPY public.cdrs (id) FROM stdin;\n1\n\\.\n",
        "\n\n",
    ],
    ids=["with --inserts", "of other tables", "of nothing"],
)
def test_a_dump_without_our_rows_is_no_empty_table(dump: str) -> None:
    with pytest.raises(UsageError, match="no rows of call_state_events"):
        read(dump)


def test_a_dump_that_was_cut_short_is_said_to_be() -> None:
    whole = DUMP.index("SELECT 1;") - 1
    for cut in range(whole):
        told: list[Good | Bad] = []
        lines = iter(DUMP[:cut].encode().splitlines(keepends=True) or [b"\n"])
        with pytest.raises((OpsError, UsageError)):
            told.extend(records(lines, IngestOptions("a"), Counted()))
        assert not [one for one in told if isinstance(one, Bad)], "half a row is none"
    assert len(read(DUMP[:whole])[0]) == 1
