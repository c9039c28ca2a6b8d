"""Who may look: login, the names under which the pages answer, rate limits, and every header.

Owns the session cookie, the check of Host (a page of somebody else must not reach a loopback
address by a name of its own) and the Content-Security-Policy. Refuses to know pages.

Read only: GET and HEAD, and POST for the login alone. Call-IDs stay out of access logs: none is
written.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ops.dashboard.address import is_any, password_fits
from ops.dashboard.serving import Door

COOKIE: Final = "cdrstream"
SESSION_SECONDS: Final = 12 * 3_600
LOGIN_PATH: Final = "/login"
_OPEN_PATHS: Final = ("/static/", "/healthz", LOGIN_PATH)
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", CSP),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
)


class Access:
    """Middleware around everything: host, method, login, headers."""

    def __init__(self, app: ASGIApp, door: Door, host: str) -> None:
        self._app = app
        self._password = door.password_hash
        self._proxy_header = door.trusted_proxy_header
        self._secure = door.is_encrypted
        names = {"localhost", "127.0.0.1", "::1", *door.hosts}
        if not is_any(host):
            names.add(host)
        self._names = {name.lower() for name in names}
        # Sessions end with the process: nothing is kept on disk.
        self._key = secrets.token_bytes(32)
        self._tries = RateLimit(rate=0.2, burst=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in _HEADERS
                        if name.encode() not in told
                    ),
                ]
                if b"cache-control" not in told:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        refusal = self._refusal(request)
        if refusal is None and request.url.path == LOGIN_PATH and request.method == "POST":
            refusal = await self._login(request)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = _host_of(request.headers.get("host", ""))
        if host not in self._names:
            return PlainTextResponse("this name is not one of dashboard.hosts\n", status_code=421)
        path = request.url.path
        if request.method not in ("GET", "HEAD") and not (
            request.method == "POST" and path == LOGIN_PATH
        ):
            return PlainTextResponse("these pages are read only\n", status_code=405)
        if path.startswith(_OPEN_PATHS):
            return None
        if self._proxy_header is not None and not request.headers.get(self._proxy_header):
            return PlainTextResponse("the reverse proxy named nobody\n", status_code=403)
        if self._password is None or self._knows(request.cookies.get(COOKIE, "")):
            return None
        if request.headers.get("accept", "").startswith("text/html"):
            return RedirectResponse(LOGIN_PATH, status_code=303)
        return PlainTextResponse("log in first\n", status_code=401)

    async def _login(self, request: Request) -> Response | None:
        if self._password is None:
            return RedirectResponse("/", status_code=303)
        client = request.client.host if request.client else ""
        if not self._tries.allows(client):
            return PlainTextResponse(
                "too many tries; wait a minute\n", status_code=429, headers={"retry-after": "60"}
            )
        if int(request.headers.get("content-length") or 0) > 4_096:
            return PlainTextResponse("too long\n", status_code=413)
        form = await _form(request)
        if not password_fits(form, self._password):
            return RedirectResponse(LOGIN_PATH + "?wrong=1", status_code=303)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            COOKIE,
            self._session(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return response

    def _session(self) -> str:
        until = str(int(time.time()) + SESSION_SECONDS)
        return f"{until}.{self._signed(until)}"

    def _signed(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), "sha256").hexdigest()

    def _knows(self, cookie: str) -> bool:
        until, dot, signature = cookie.partition(".")
        if not dot or not until.isdecimal() or int(until) < time.time():
            return False
        return hmac.compare_digest(signature.encode(), self._signed(until).encode())


async def _form(request: Request) -> str:
    """The password of a URL-encoded form, and nothing else of it."""
    from urllib.parse import parse_qs  # noqa: PLC0415  the login alone needs it

    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 4_096:
            return ""
    found = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4).get("password", [""])
    return found[0]


def _host_of(header: str) -> str:
    """The name of a Host header, without its port."""
    if header.startswith("["):
        return header[1 : header.find("]")].lower()
    return header.partition(":")[0].lower()


class RateLimit:
    """A bucket of tokens a client; clients that were not seen for long are forgotten."""

    CLIENTS_MAX: Final = 10_000

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Takes a token; False where there is none."""
        now = time.monotonic()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        while len(self._buckets) > self.CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return allowed
