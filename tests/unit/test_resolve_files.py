"""`cdrstream resolve`: files in, CDRs out, as its contract says."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callstate.config import ResolutionConfig, TimeCorrection
from callstate.envelope import Gap, clock_message, event_message, gap_message, heartbeat_message
from ops.errors import UsageError
from ops.resolve import run
from tests.calls import DAY_US, US, clock, row

COLUMNS = [
    "call_id", "from_tag", "to_tag", "caller_aor", "callee_aor", "start_time", "connect_time",
    "end_time", "termination", "failure_status", "failure_reason", "call_direction", "reference",
    "caller_contact", "callee_contact", "caller_internal", "callee_route",
]  # fmt: skip
CALL = (row("R", 0, id=1), row("S", 5, id=2), row("E", 65, cseq=2, id=3))


def bare(told: dict[str, Any]) -> dict[str, Any]:
    """A row without the `server` that tests write beside its columns."""
    return {name: value for name, value in told.items() if name != "server"}


def write(path: Path, *lines: object) -> Path:
    """A file of JSON lines; bytes and text are written as they are."""
    with path.open("wb") as stream:
        for line in lines:
            if isinstance(line, bytes):
                stream.write(line)
            else:
                stream.write(json.dumps(line).encode() + b"\n")
    return path


class Told:
    """What a run wrote."""

    def __init__(self, folder: Path) -> None:
        self.out = (folder / "cdrs").read_bytes()
        self.provenance = (folder / "provenance").read_bytes()
        self.dead_letters = (folder / "dead").read_bytes()

    @property
    def cdrs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def reasons(self) -> dict[str, dict[str, Any]]:
        told = [json.loads(line) for line in self.provenance.splitlines()]
        return {reason["call_id"]: reason for reason in told}

    @property
    def dead(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.dead_letters.splitlines()]


Resolve = Callable[..., Told]


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    made = tmp_path / "made"
    made.mkdir()

    def resolved(*inputs: Path | str, config: ResolutionConfig | None = None, **more: Any) -> Told:
        run(
            [str(one) for one in inputs],
            config=config or ResolutionConfig(),
            out=str(made / "cdrs"),
            provenance=str(made / "provenance"),
            dead_letters=str(made / "dead"),
            **more,
        )
        return Told(made)

    return resolved


def test_a_cdr_has_the_columns_of_the_table(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "rows.jsonl", *CALL))
    (cdr,) = told.cdrs
    assert list(cdr) == COLUMNS
    assert cdr["start_time"] == "2024-03-04T09:00:00.000000Z"
    assert cdr["end_time"] == "2024-03-04T09:01:05.000000Z"
    assert told.dead == []


def test_cdrs_are_sorted_by_start_and_call_id(tmp_path: Path, resolve: Resolve) -> None:
    rows = [row("R", at, call_id=name) for at, name in ((3, "a"), (1, "z"), (1, "b"))]
    assert [c["call_id"] for c in resolve(write(tmp_path / "x", *rows)).cdrs] == ["b", "z", "a"]


def test_empty_input(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "empty.jsonl"))
    assert (told.out, told.provenance, told.dead_letters) == (b"", b"", b"")


def test_blank_lines_crlf_and_a_last_line_without_an_end(tmp_path: Path, resolve: Resolve) -> None:
    text = [json.dumps(one).encode() for one in CALL]
    path = write(tmp_path / "x.jsonl", b"\r\n \n\n", text[0], b"\r\n", text[1], b"\r\n\n", text[2])
    told = resolve(path)
    assert [cdr["termination"] for cdr in told.cdrs] == ["C"]
    assert told.dead == []


# -- whose row it is -------------------------------------------------------------------------


def servers(told: Told) -> list[str]:
    return [str(name) for name in told.reasons["call"]["servers"]]


def test_the_server_is_the_name_in_the_files_name(tmp_path: Path, resolve: Resolve) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "rows.alpha.jsonl", CALL[0], CALL[2])
    write(folder / "rows.b.c.jsonl", CALL[1])
    write(folder / "rows.jsonl", {"not": "read"})
    write(folder / "truth.jsonl", {"not": "read"})
    told = resolve(folder)
    assert servers(told) == ["alpha", "b.c"]
    assert told.dead == []
    assert resolve(folder / "rows.alpha.jsonl", folder / "rows.b.c.jsonl").out == told.out


def test_else_it_is_the_field_else_the_observer(tmp_path: Path, resolve: Resolve) -> None:
    one = bare(CALL[0]) | {"observer": "proxy:5060"}
    two = CALL[1] | {"observer": "unused"}
    assert servers(resolve(write(tmp_path / "x", one, two))) == ["proxy:5060", "s"]


def test_neither_is_one_server_as_well(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "x", *(bare(one) for one in CALL)))
    assert len(told.cdrs) == 1


def test_a_server_that_is_no_text_is_a_dead_letter(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "x", CALL[0] | {"server": 7}))
    assert [letter["reason"] for letter in told.dead] == ["server is not text"]


def enveloped(told: dict[str, Any], server: str, **more: Any) -> dict[str, Any]:
    return event_message(server, "0/1", None, more.get("clock"), bare(told))


def test_the_envelopes_server_goes_before_the_files_name(tmp_path: Path, resolve: Resolve) -> None:
    path = write(tmp_path / "rows.file.jsonl", enveloped(CALL[0], "enveloped"), CALL[1])
    assert servers(resolve(path)) == ["enveloped", "file"]


def test_envelopes_and_bare_rows_say_the_same(tmp_path: Path, resolve: Resolve) -> None:
    rows = resolve(write(tmp_path / "x", *CALL))
    assert resolve(write(tmp_path / "y", *(enveloped(one, "s") for one in CALL))).out == rows.out


def test_an_envelopes_clock_corrects_its_times(tmp_path: Path, resolve: Resolve) -> None:
    lines = [enveloped(one, "s", clock=clock(60)) for one in CALL]
    told = resolve(write(tmp_path / "x", *lines))
    assert told.cdrs[0]["start_time"] == "2024-03-04T08:59:00.000000Z"
    config = ResolutionConfig(time_correction=TimeCorrection.OFF)
    off = resolve(write(tmp_path / "x", *lines), config=config)
    assert off.cdrs[0]["start_time"] == "2024-03-04T09:00:00.000000Z"


def test_heartbeats_close_nothing_and_gaps_make_suspect(tmp_path: Path, resolve: Resolve) -> None:
    far = DAY_US + 10**6 * US
    lines = [
        enveloped(CALL[0], "s"),
        heartbeat_message("s", far, "0/9", None),
        gap_message(Gap("s", "0/1", "0/2", DAY_US + 10 * US, DAY_US + 20 * US, "slot lost")),
        enveloped(CALL[2], "s"),
        enveloped(CALL[1], "s"),
        enveloped(row("R", 500, call_id="other", id=9), "s"),
    ]
    told = resolve(write(tmp_path / "x", *lines))
    assert {cdr["call_id"]: cdr["termination"] for cdr in told.cdrs} == {"call": "C", "other": "F"}
    suspect = {name: reason["suspect"] for name, reason in told.reasons.items()}
    assert suspect == {"call": True, "other": False}
    assert told.dead == []


def test_an_envelope_of_another_version_is_a_dead_letter(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "x", enveloped(CALL[0], "s") | {"v": 2}))
    assert told.dead[0]["reason"].startswith("envelope version is unknown: 2")
    assert clock_message(None) is None


# -- the reference ---------------------------------------------------------------------------


def skewed(tmp_path: Path) -> Path:
    """Forty calls over `a` and `b`; b is 700 ms ahead."""
    folder = tmp_path / "skewed"
    folder.mkdir()
    files: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    for n in range(40):
        at = n * 5.0
        name: dict[str, Any] = {"call_id": f"c{n}"}
        outer, inner = name | {"via_count": 1}, name | {"via_count": 3, "branch_id": "z3"}
        files["a"] += [row("R", at, **outer), row("S", at + 2.004, **outer)]
        files["a"] += [row("E", at + 9, cseq=2, **name)]
        files["b"] += [row("R", at + 0.704, **inner), row("S", at + 2.7, **inner)]
    for server, rows in files.items():
        write(folder / f"rows.{server}.jsonl", *({"id": n} | r for n, r in enumerate(rows, 1)))
    return folder


def test_the_first_server_by_name_is_the_reference(tmp_path: Path, resolve: Resolve) -> None:
    folder = skewed(tmp_path)
    by_default = resolve(folder)
    assert by_default.out == resolve(folder, reference="a").out
    assert by_default.cdrs[0]["connect_time"][11:23] == "09:00:02.000"
    assert resolve(folder, reference="b").cdrs[0]["start_time"][11:21] == "09:00:00.7"


def test_a_reference_without_rows_is_bad_usage(tmp_path: Path, resolve: Resolve) -> None:
    with pytest.raises(UsageError, match="zz") as bad:
        resolve(skewed(tmp_path), reference="zz")
    assert "a, b" in str(bad.value)


def test_inputs_that_are_not_there_are_bad_usage(tmp_path: Path, resolve: Resolve) -> None:
    with pytest.raises(UsageError, match="no such file"):
        resolve(tmp_path / "nowhere")
    empty = tmp_path / "folder"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"rows\.NAME\.jsonl"):
        resolve(empty)
    with pytest.raises(UsageError, match="more than once"):
        resolve("-", "-")


# -- dead letters ----------------------------------------------------------------------------


def test_lines_that_cannot_be_read(tmp_path: Path, resolve: Resolve) -> None:
    path = write(
        tmp_path / "rows.s.jsonl",
        CALL[0],
        b"{broken\n",
        b"[1, 2]\n",
        b"\xff\xfe\n",
        CALL[1] | {"event_type": "Q"},
        b"[" * 5_000 + b"\n",
        CALL[1],
        CALL[2],
    )
    told = resolve(path)
    assert [cdr["termination"] for cdr in told.cdrs] == ["C"]
    found = {letter["source"]: letter for letter in told.dead}
    assert list(found) == [f"{path}:{line}" for line in (2, 3, 4, 5, 6)]
    assert all(set(letter) == {"reason", "source", "server", "raw"} for letter in told.dead)
    assert {letter["server"] for letter in told.dead} == {"s"}
    assert found[f"{path}:2"]["raw"] == "{broken"
    assert found[f"{path}:3"]["raw"] == [1, 2]
    assert found[f"{path}:5"]["reason"] == "event_type is unknown: 'Q'"
    assert found[f"{path}:5"]["raw"] == json.loads(json.dumps(CALL[1] | {"event_type": "Q"}))


def test_a_call_that_nobody_placed(tmp_path: Path, resolve: Resolve) -> None:
    path = write(tmp_path / "x", *CALL, row("E", 9, call_id="lonely", id=8))
    (letter,) = resolve(path).dead
    assert (letter["reason"], letter["source"], letter["server"]) == ("end only", f"{path}:4", "s")
    assert letter["raw"]["call_id"] == "lonely"


@pytest.mark.parametrize("other_call", ["call", "zz"])
@pytest.mark.parametrize("arrival", [1, -1])
def test_of_two_rows_with_one_identity_the_lesser_is_kept(
    tmp_path: Path, resolve: Resolve, other_call: str, arrival: int
) -> None:
    """By content: column by column, so that the order of arrival decides nothing."""
    kept = row("S", 5, id=2, observer="o")
    lost = row("S", 6, id=2, observer="o", call_id=other_call)
    path = write(tmp_path / "x", CALL[0], *(kept, lost)[::arrival], CALL[2])
    told = resolve(path)
    assert [cdr["connect_time"][17:22] for cdr in told.cdrs] == ["05.00"]
    (letter,) = told.dead
    assert letter["reason"] == "two rows with one identity"
    assert letter["raw"]["event_time"] == "2024-03-04T09:00:06.000000Z"
    assert letter["source"] == f"{path}:{3 if arrival == 1 else 2}"


def test_rows_without_an_id_are_known_by_their_content(tmp_path: Path, resolve: Resolve) -> None:
    rows = [{k: v for k, v in one.items() if k != "id"} for one in CALL]
    told = resolve(write(tmp_path / "x", *rows, *rows))
    assert told.reasons["call"]["revision"] == 3
    assert told.dead == []


def test_the_same_id_on_two_servers_is_two_rows(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "x", CALL[0], row("S", 5, id=1, server="t"), CALL[2]))
    assert told.dead == []
    assert told.cdrs[0]["termination"] == "C"


# -- what strangers send ---------------------------------------------------------------------


def test_lone_surrogates_are_written_as_replacement_characters(
    tmp_path: Path, resolve: Resolve
) -> None:
    line = json.dumps(CALL[0] | {"from_url": "\ud800<sip:a@x>;tag=a"}).encode() + b"\n"
    assert b"\\ud800" in line
    told = resolve(write(tmp_path / "x", line, CALL[1], CALL[2], b'{"a":"\\udfff"}\n'))
    assert told.cdrs[0]["caller_aor"] == "\ufffd<sip:a@x>"
    assert told.dead[0]["raw"] == {"a": "\ufffd"}


def test_invalid_utf8_and_nul_are_replaced(tmp_path: Path, resolve: Resolve) -> None:
    text = json.dumps(CALL[0] | {"from_url": "@@<sip:a@x>", "contact": "x\x00y"}).encode() + b"\n"
    told = resolve(write(tmp_path / "x", text.replace(b"@@", b"\xff\xfe"), CALL[1], CALL[2]))
    assert told.cdrs[0]["caller_contact"] == "x\ufffdy"
    assert told.cdrs[0]["caller_aor"] == "\ufffd\ufffd<sip:a@x>"


def test_a_megabyte_of_header(tmp_path: Path, resolve: Resolve) -> None:
    name = '"' + "x" * 2**20 + '" <sip:a@x>'
    told = resolve(write(tmp_path / "x", CALL[0] | {"from_url": name + ";tag=a"}, *CALL[1:]))
    assert told.cdrs[0]["caller_aor"] == name


def test_absurd_numbers_that_a_column_holds(tmp_path: Path, resolve: Resolve) -> None:
    absurd = {"cseq": -(2**31), "via_count": 2**31, "event_seq": 2**63 - 1}
    told = resolve(write(tmp_path / "x", CALL[0] | absurd, *CALL[1:]))
    assert told.cdrs[0]["termination"] == "C"


@pytest.mark.parametrize("column", ["id", "cseq", "via_count", "event_seq", "failure_status"])
@pytest.mark.parametrize("surrogate", ["", "\ud800"])
@pytest.mark.parametrize(
    "digits", ["1" + "0" * 30, "-1" + "0" * 30, "9" * 5_000, '"' + "9" * 30 + '"']
)
def test_numbers_that_nothing_holds(
    tmp_path: Path, resolve: Resolve, column: str, surrogate: str, digits: str
) -> None:
    """Whichever of the two parsers reads the line: a lone surrogate decides that."""
    line = json.dumps(row("F", 3) | {column: "@", "reference": surrogate})
    told = resolve(write(tmp_path / "x", *CALL, line.replace('"@"', digits).encode() + b"\n"))
    assert [cdr["termination"] for cdr in told.cdrs] == ["C"]
    assert [letter["reason"].split()[0] for letter in told.dead] == [column]


def test_a_failure_status_that_no_column_holds(tmp_path: Path, resolve: Resolve) -> None:
    told = resolve(write(tmp_path / "x", CALL[0], row("F", 3, failure_status=10**9, id=2)))
    assert told.dead[0]["reason"] == "failure_status is out of range: 1000000000"


# -- csv and -, order and duplicates ------------------------------------------------------------


def test_csv(tmp_path: Path, resolve: Resolve) -> None:
    strange = '"a, ""b""" <sip:a@x>;tag=a'
    told = resolve(
        write(tmp_path / "x", CALL[0] | {"from_url": strange}, *CALL[1:], row("R", 9, call_id="f")),
        form="csv",
    )
    header, *rows = csv.reader(io.StringIO(told.out.decode()))
    assert ",".join(header) == (
        "callee_aor,caller_aor,start_time,connect_time,end_time,failure_status,termination,call_id"
    )
    assert rows[0][1] == '"a, ""b""" <sip:a@x>'
    assert rows[0][5:] == ["", "C", "call"]
    assert rows[1][3:7] == ["", "", "408", "F"]


def test_standard_input_and_output(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"".join(json.dumps(one).encode() + b"\n" for one in CALL)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    run(["-"], config=ResolutionConfig())
    assert json.loads(capfdbinary.readouterr().out)["termination"] == "C"


def test_any_order_and_any_duplicates_give_the_same_bytes(tmp_path: Path, resolve: Resolve) -> None:
    folder = skewed(tmp_path)
    straight = resolve(folder)
    lines = [
        (json.loads(line) | {"server": name})
        for name in "ab"
        for line in (folder / f"rows.{name}.jsonl").read_text().splitlines()
    ]
    chance = random.Random(4)
    for _ in range(3):
        mixed = [*lines, *chance.choices(lines, k=40)]
        chance.shuffle(mixed)
        told = resolve(write(tmp_path / "mixed.jsonl", *mixed))
        assert told.out == straight.out
        assert told.provenance == straight.provenance
