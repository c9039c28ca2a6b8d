"""The dashboard's parts without broker and database: text, ladder, drawings, access."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ops.config_sections import Dashboard
from ops.dashboard import drawing
from ops.dashboard.access import COOKIE, Access, RateLimit
from ops.dashboard.address import check_address, hash_password, is_loopback, password_fits
from ops.dashboard.calls import search_of
from ops.dashboard.ladder import ROWS_MAX, ladder
from ops.dashboard.replays import progress, records, summary
from ops.dashboard.runbook import rendered
from ops.dashboard.scan import partition_of
from ops.dashboard.serving import Door
from ops.dashboard.text import hider, moment, short, shown, with_times
from ops.errors import ConfigError

# -- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "html"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a\u202eb", "a&lt;U+202E&gt;b"),
        ("\x1b[2J\u200b", "&lt;U+001B&gt;[2J&lt;U+200B&gt;"),
        ('" onload="x', "&#34; onload=&#34;x"),
    ],
)
def test_what_strangers_wrote_is_text(theirs: str, html: str) -> None:
    assert html in shown(theirs)
    assert html in short(theirs)
    assert "<script" not in shown(theirs * 500)


def test_long_names_are_cut_and_can_be_opened() -> None:
    whole = shown("A" * 4_096)
    assert whole.startswith('<details class="long"><summary>')
    assert whole.count("A") == 512 + 4_096
    assert short("A" * 4_096).count("A") == 60 + 512  # the beginning is in the title


def test_nothing_is_a_dash_and_not_none() -> None:
    assert "None" not in shown(None)
    assert moment(None) == '<span class="none">-</span>'
    assert moment("not a time") == '<span class="none">-</span>'


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ("full", '"Alice" <sip:alice@example.com>'),
        ("masked", "<sip:al***@example.com>"),
        ("none", "(hidden)"),
    ],
)
def test_people_are_shown_as_far_as_is_configured(privacy: Any, said: str) -> None:
    assert hider(privacy)('"Alice" <sip:alice@example.com>') == said
    assert "alice" not in hider("masked")("Alice <SIP:alice@x>;tag=1").replace("al***", "")


def test_times_of_a_sentence_become_times_of_the_right_day() -> None:
    at = 1_800_000_000.0 - 1_800_000_000 % 86_400 + 60  # a minute past midnight
    told = with_times("before 23:59:30 UTC <b>", at)
    assert f'datetime="{moment(at - 90)[16:26]}' in told
    assert "&lt;b&gt;" in told


# -- ladder ------------------------------------------------------------------------------------


def event(kind: str, server: str, **more: Any) -> dict[str, Any]:
    at = more.pop("at", 0.0)
    return {
        "event_type": kind,
        "server": server,
        "observer": f"{server}:5060",
        "cseq": 1,
        "from_tag": "f",
        "time": f"2026-01-01T00:00:{at:06.3f}000Z",
        "raw_time": f"2026-01-01T00:00:{at + more.pop('ahead', 0.0):06.3f}000Z",
        **more,
    }


CALL = {
    "events": [
        event("R", "a", via_count=1),
        event("R", "b", via_count=2, at=0.1, ahead=5.5, clock=[5_500_000, 1_000, 0, 0]),
        event("S", "b", via_count=2, to_tag="t1", at=1.0, ahead=5.5),
        event("S", "a", via_count=1, to_tag="t1", at=1.1),
        event("E", "a", from_tag="t1", to_tag="f", cseq=7, at=9.0, late=True),
    ],
    "legs": [{"to_tag": "t1"}, {"to_tag": "t2"}],
    "inversions": [[1, 3]],
}


def test_lanes_stand_from_caller_to_callee() -> None:
    drawn = ladder(CALL)
    assert [lane.title for lane in drawn.lanes] == [
        "caller",
        "server a",
        "server b",
        "leg 1, won",
        "leg 2",
    ]
    assert [lane.observer for lane in drawn.lanes] == [False, True, True, False, False]


def test_arrows_come_from_where_the_message_came() -> None:
    drawn = ladder(CALL)
    x = {lane.title: lane.x for lane in drawn.lanes}
    assert [(row.x1, row.x2) for row in drawn.rows] == [
        (x["caller"], x["server a"]),
        (x["server a"], x["server b"]),
        (x["leg 1, won"], x["server b"]),
        (x["server b"], x["server a"]),
        (x["leg 1, won"], x["server a"]),  # the callee hung up
    ]
    assert [row.dashed for row in drawn.rows] == [True, False, True, False, True]


def test_rows_stand_in_resolved_order_unless_the_clocks_are_asked() -> None:
    assert [row.number for row in ladder(CALL).rows] == [1, 2, 3, 4, 5]
    assert [row.number for row in ladder(CALL, by_clock=True).rows] == [1, 4, 2, 3, 5]
    marks = {row.number: row.marks for row in ladder(CALL).rows}
    assert marks[2] == marks[4] == ("against the clocks",)
    assert marks[5] == ("came late",)
    assert ladder(CALL).rows[1].offset == 5.5


def test_a_call_of_strange_events_is_drawn_too() -> None:
    strange = ladder({"events": [event("E", "a"), event("X", "b", cseq=0)], "legs": []})
    assert [lane.title for lane in strange.lanes] == ["caller", "server a", "server b", "callee"]
    many = ladder({"events": [event("E", "a")] * (ROWS_MAX + 5)})
    assert (len(many.rows), many.left_out) == (ROWS_MAX, 5)
    assert ladder({}).rows == ()


# -- drawings ----------------------------------------------------------------------------------


def test_clocks_share_a_scale_with_their_errors_inside_it() -> None:
    servers = [
        {"name": "a", "offset": 0.0, "error": 0.001, "traffic": None},
        {"name": "b", "offset": -5.5, "error": 0.5, "traffic": None},
        {"name": "c", "offset": None, "error": None, "traffic": {"offset": 7.0, "error": 1.0}},
    ]
    drawn = drawing.clocks(servers, 0.5)
    assert "c" not in drawn["dots"]
    assert 0 < drawn["dots"]["b"]["left"] < drawn["dots"]["b"]["x"] < drawn["band"][0]
    assert drawing.clocks([], 0.5)["limit"] == pytest.approx(0.75)


def test_lanes_have_a_scale_that_holds_the_worst() -> None:
    part = {"number": 0, "lag": 42.0, "frontiers": [{"server": "b", "at": 60.0}]}
    drawn = drawing.lanes([part], 6.0, 100.0)
    assert drawn["limit"] == 50.0
    assert drawn["bars"][0]["width"] == pytest.approx(drawing.LANE_WIDTH * 0.84)
    empty = {"number": 1, "lag": None, "frontiers": [{"server": "b", "at": None}]}
    assert drawing.lanes([empty], 6.0, 100.0)["bars"][1] == {"width": None, "ticks": []}


# -- search ------------------------------------------------------------------------------------


def test_a_search_takes_what_it_knows_and_nothing_else() -> None:
    search = search_of({"q": " x\x00y " + "z" * 600, "outcome": "C' OR 1=1", "before": "1;DROP"})
    assert search.text.startswith("xy")
    assert len(search.text) <= 512
    assert (search.outcome, search.before) == ("", "")
    with pytest.raises(ConfigError, match="from"):
        search_of({"from": "yesterday"})


def test_a_call_is_looked_for_where_every_client_puts_it() -> None:
    # by Kafka's own tests: murmur2 of "foobar" is -790332482, of "21" -973932308
    assert partition_of("foobar", 100) == 66
    assert partition_of("21", 100) == 40


def test_how_far_a_replay_is() -> None:
    parts = [{"partition": 0, "start": 0, "end": 100}, {"partition": 1, "start": 50, "end": 150}]
    plan = {"parts": parts}
    shares = {0.0: {}, 0.5: {"0": 100, "1": 50}, 1.0: {"0": 900, "1": 900}}
    for share, offsets in shares.items():
        assert progress(records(plan, offsets, "running"), "running") == share
    assert records({}, {}, "running") is None
    assert progress(None, "running") is None
    assert progress(None, "done") == 1.0
    assert summary({"summary": {"unchanged": 1}}) is None
    assert summary({}) is None


def test_the_runbooks_markdown_is_escaped() -> None:
    html = rendered("# A <b>\n\ntext `<i>` **bold**\n\n- one\n  more\n- two\n```\n<x>\n```\n")
    assert '<h1 id="a-b">A &lt;b&gt;</h1>' in html
    assert "<code>&lt;i&gt;</code> <strong>bold</strong>" in html
    assert "<li>one more</li><li>two</li>" in html
    assert "<pre><code>&lt;x&gt;</code></pre>" in html


# -- access ------------------------------------------------------------------------------------

HASH = hash_password("correct horse")


def test_passwords_are_known_by_their_hash_alone() -> None:
    assert "correct" not in HASH
    assert password_fits("correct horse", HASH)
    assert not password_fits("correct horsf", HASH)
    for nonsense in ("", "scrypt$$", "scrypt$x$y", "md5$a$b"):
        assert not password_fits("", nonsense)
    assert hash_password("correct horse") != HASH


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"password_hash": HASH},
        {"tls_certificate": "c", "tls_key": "k"},
        {"tls_by_proxy": True},
    ],
)
def test_an_open_address_wants_login_and_encryption(settings: dict[str, Any]) -> None:
    for listen in ("0.0.0.0:80", "10.0.0.1:80", "[::]:80", "cdr.example.com:80"):
        with pytest.raises(ConfigError, match="can be reached by others"):
            check_address(Dashboard(**settings), listen)
    assert check_address(Dashboard(**settings), "127.0.0.1:80") == ("127.0.0.1", 80)


def test_an_open_address_with_both_is_fine() -> None:
    safe = Dashboard(password_hash=SecretStr(HASH), tls_certificate="c", tls_key="k")
    assert check_address(safe, "[::]:8443") == ("::", 8443)
    assert check_address(Dashboard(trusted_proxy_header="X-User"), "0.0.0.0:1") == ("0.0.0.0", 1)
    with pytest.raises(ConfigError, match="without the other"):
        check_address(Dashboard(tls_key="k"), "127.0.0.1:1")
    with pytest.raises(ConfigError, match="no hash"):
        check_address(Dashboard(password_hash=SecretStr("hunter2")), "127.0.0.1:1")


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.1.1.1", "localhost.example.com")))


class Answer:
    def __init__(self, code: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status_code = code
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self.text = body.decode()


class Web:
    """A browser, as far as these tests need one: one request at a time, cookies kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.cookies: dict[str, str] = {}

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def post(self, path: str, data: dict[str, str] | None = None, content: bytes = b"") -> Answer:
        return self.request("POST", path, content=urlencode(data).encode() if data else content)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, content: bytes = b""
    ) -> Answer:
        given = {"host": "127.0.0.1:8470", "content-length": str(len(content)), **(headers or {})}
        if self.cookies:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8470),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        body = b"".join(message.get("body", b"") for message in sent[1:])
        answer = Answer(sent[0]["status"], sent[0]["headers"], body)
        name, equals, value = answer.headers.get("set-cookie", "").partition("=")
        if equals:
            self.cookies[name] = value.partition(";")[0]
        return answer


def client(**settings: Any) -> Web:
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("secret")

    app = Starlette(routes=[Route("/", page), Route("/login", page, methods=["GET"])])
    return Web(Access(app, Door(**settings), "127.0.0.1"))


def test_every_answer_has_the_headers() -> None:
    for answer in (client().get("/"), client().get("/nowhere"), client().post("/")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_another_pages_name_for_this_address_is_refused() -> None:
    for host in ("evil.example.com", "127.0.0.1.evil.example.com", ""):
        assert client().get("/", headers={"host": host}).status_code == 421
    assert client(hosts=("cdr.example.com",)).get("/", headers={"host": "cdr.example.com:1"}).text


def test_the_pages_are_read_only() -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client().request(method, "/").status_code == 405


def test_login() -> None:
    web = client(password_hash=HASH)
    assert web.get("/").status_code == 401
    assert web.get("/", headers={"accept": "text/html"}).headers["location"] == "/login"
    wrong = web.post("/login", data={"password": "x"})
    assert wrong.headers["location"] == "/login?wrong=1"
    assert COOKIE not in web.cookies
    right = web.post("/login", data={"password": "correct horse"})
    assert "HttpOnly" in right.headers["set-cookie"]
    assert "SameSite=strict" in right.headers["set-cookie"]
    assert web.get("/").text == "secret"
    web.cookies[COOKIE] = "99999999999.forged"
    assert web.get("/").status_code == 401


def test_tries_are_counted() -> None:
    web = client(password_hash=HASH)
    codes = [web.post("/login", data={"password": "x"}).status_code for _ in range(8)]
    assert codes[:5] == [303] * 5
    assert 429 in codes[5:]
    assert web.post("/login", content=b"x" * 9_000).status_code in (413, 429)


def test_a_proxy_that_names_nobody_is_refused() -> None:
    web = client(trusted_proxy_header="X-Forwarded-User")
    assert web.get("/").status_code == 403
    assert web.get("/", headers={"x-forwarded-user": "eve"}).text == "secret"


def test_a_bucket_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    limit = RateLimit(rate=1.0, burst=2)
    assert [limit.allows("x") for _ in range(3)] == [True, True, False]
    assert limit.allows("y")
    now = 1.5
    assert [limit.allows("x") for _ in range(2)] == [True, False]


def test_no_page_has_script_or_style_of_its_own() -> None:
    folder = Path(drawing.__file__).parent / "templates"
    for template in folder.glob("*.html"):
        text = template.read_text()
        assert " style=" not in text, template
        assert "<style" not in text, template
        assert "|safe" not in text.replace(" ", ""), template
        assert "autoescape" not in text, template
        for found in text.split("<script")[1:]:
            assert found.startswith(' src="/static/'), template
