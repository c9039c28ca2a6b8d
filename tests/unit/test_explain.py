"""The page that explains a call: its content, its width, and what strangers cannot do to it."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from ops import explain
from ops.visible import columns_of, cut, padded, visible, wrapped

OFFSET = {
    "server": "b", "offset_us": -5_500_000, "error_us": 4_000, "source": "probe", "applied": True,
}  # fmt: skip


def event(kind: str, server: str, time: str, **more: object) -> dict[str, object]:
    day = "2024-03-04T09:00:"
    return {
        "server": server, "observer": f"{server}:5060", "event_type": kind, "cseq": 1,
        "raw_time": f"{day}{time}Z", "time": f"{day}{time}Z", "via_count": 1, **more,
    }  # fmt: skip


PROVENANCE = {
    "call_id": "c@h", "revision": 3, "rule": "BYE", "missing": [], "suspect": False,
    "servers": ["a", "b"], "offsets": [OFFSET], "inversions": [[0, 1]], "late_events": 2,
    "events_dropped": 0, "watermark": "2024-03-04T09:02:00.000000Z",
    "notes": ["end raised by 3 us"],
    "legs": [
        {"to_tag": "t", "termination": "C", "connect_time": "2024-03-04T09:00:02Z",
         "end_time": "2024-03-04T09:01:02Z", "verdict": "won"},
        {"to_tag": "u", "termination": "U", "connect_time": "2024-03-04T09:00:03Z",
         "end_time": None, "verdict": "lost: no end known"},
    ],
    "events": [
        event("R", "a", "00.100000"),
        event("S", "b", "02.000000", failure_status=None),
        event("E", "a", "59.000000", late=True),
    ],
}  # fmt: skip
CDR = {
    "caller_aor": "<sip:1@h>", "callee_aor": "<sip:2@h>", "start_time": "2024-03-04T09:00:00.100Z",
    "connect_time": "2024-03-04T09:00:02Z", "end_time": "2024-03-04T09:01:02Z", "termination": "C",
    "failure_status": None, "failure_reason": None,
}  # fmt: skip


def page(provenance=PROVENANCE, cdr=CDR, hidden: str = "") -> str:
    return "\n".join(line.plain for line in explain.render(provenance, cdr, hidden))


def test_the_page_tells_the_cdr_and_why():
    text = page()
    for told in (
        "Call c@h",
        "revision 3",
        "connect  2024-03-04 09:00:02.000   1.900 s after the start",
        "end      2024-03-04 09:01:02.000   60.000 s long",
        "outcome  C completed",
        "Closed by: BYE; when every server had told all up to 2024-03-04",
        "Of 2 legs the first one below won",
        "The times of server b were moved by +5.500 s +- 0.004 s",
        "order 1 pair of events against",
        "Nothing is missing.",
        "2 events came after the call had been closed",
        "End raised by 3 us.",
        "lost: no end known",
    ):
        assert told in text


def test_events_come_in_resolved_order_with_their_marks():
    lines = page().splitlines()
    first = next(number for number, line in enumerate(lines) if "R INVITE" in line)
    assert [line.split()[1] for line in lines[first::2][:3]] == ["R", "S", "E"]
    assert lines[first + 1].strip() == "against the clocks"
    assert "late" in lines[first + 5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"missing": ["setup"]}, "No answer was seen"),
        ({"missing": ["start", "end"]}, "No request was seen"),
        ({"suspect": True}, "Suspect: a gap"),
        ({"events_dropped": 1}, "1 event beyond the bound"),
        ({"watermark": None}, "at the end of the input"),
        ({"offsets": []}, "no offset is known"),
        ({"offsets": [OFFSET | {"source": "none", "offset_us": 0}]}, "not measured"),
        ({"offsets": [OFFSET | {"source": "traffic"}]}, "measured from the calls themselves"),
        ({"rule": "BYE; hidden: music on hold"}, "Closed by: BYE;"),
    ],
)
def test_what_is_missing_or_doubtful_is_said(change, said):
    assert said in page(PROVENANCE | change)


def test_a_hidden_call_and_one_without_a_caller_have_no_cdr():
    assert "No CDR is written: music on hold." in page(cdr=None, hidden="music on hold")
    assert "nobody knows who called" in page(cdr=None)


def test_a_failed_call_shows_status_and_reason():
    failed = CDR | {"termination": "F", "failure_status": 486, "failure_reason": "Busy Here"}
    assert "outcome  F failed: 486 Busy Here" in page(cdr=failed)


HOSTILE = [
    "[red]markup[/red] [link=file:///etc/passwd]x[/link]",
    "\x1b[2J\x1b]0;title\x07",
    "a\u202eb\u2066c\u200bd\ufeff",
    "line\r\nfeed\x85next\u2028line",
    "x" * 4_000,
    "界" * 100,
    "e\u0301" * 200,
    "lone \ud800 surrogate",
    "'; DROP TABLE cdrs; --",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_header_text_cannot_reach_the_terminal_nor_break_the_page(text):
    events = [event("F", text, "00.100000", failure_status=500, failure_reason=text, observer=text)]
    leg = {"to_tag": text, "termination": text, "connect_time": None, "verdict": text}
    provenance = PROVENANCE | {
        "call_id": text, "events": events, "legs": [leg, leg], "rule": text, "notes": [text],
        "inversions": [], "offsets": [OFFSET | {"server": text}],
    }  # fmt: skip
    cdr = CDR | {"caller_aor": text, "callee_aor": text, "failure_reason": text,
                 "failure_status": 500}  # fmt: skip
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, color_system="truecolor", width=300, soft_wrap=True
    )
    for line in explain.render(provenance, cdr, text):
        assert columns_of(line.plain) <= 80
        console.print(line)
    printed = out.getvalue()
    assert "\x1b" not in printed
    assert all(visible(line) == line for line in printed.split("\n"))
    assert json.dumps(explain.as_object(provenance, cdr, text)).isascii()


def test_nothing_but_the_identity_is_needed():
    assert "Call c@h" in page({"call_id": "c@h"}, None)


def test_invisible_characters_are_spelt_out():
    assert visible("a\u202eb\x1b") == "a<U+202E>b<U+001B>"
    assert visible("Müller 🙂") == "Müller 🙂"


def test_text_is_wrapped_by_columns():
    assert wrapped("aa bb cc", 6, "- ", "  ") == ["- aa", "  bb", "  cc"]
    assert wrapped("aaaaaaa b", 6, "- ", "  ") == ["- aaaa", "  aaa", "  b"]
    assert wrapped("界界界", 6, "- ", "  ") == ["- 界界", "  界"]
    assert wrapped("", 6, "- ", "  ") == ["- "]


def test_text_is_cut_and_filled_by_columns():
    assert cut("abcdef", 4) == "ab.."
    assert cut("界界界", 5) == "界.."
    assert padded("界", 4) == "界  "
