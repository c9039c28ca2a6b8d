"""`GET /activecdrs[?name=USER]`: the calls in progress, as other software has always asked.

Owns the XML and the little server. Refuses to know where calls come from: a function says. Listens
only where it is told to, and answers nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from aiohttp import web

from callstate.headers import user_part
from stream_app.errors import StreamAppError
from stream_app.sink import ActiveRow

log = logging.getLogger(__name__)

Asked = Callable[[], Awaitable[list[ActiveRow]]]
_CONTROLS = {code: "\ufffd" for code in range(32) if code not in (9, 10, 13)}


def active_xml(calls: Iterable[ActiveRow], now: datetime) -> str:
    """`<cdrs>` with a `<cdr>` a call; times are epoch milliseconds, durations milliseconds."""
    parts = ["<cdrs>"]
    for call in calls:
        parts.append(
            f"<cdr><from>{_text(call.caller_aor)}</from><to>{_text(call.callee_aor)}</to>"
            f"<recipient>{_text(call.recipient)}</recipient>"
            f"<start_time>{_ms(call.start_time)}</start_time>"
            f"<duration>{max(0, _ms(now) - _ms(call.connect_time))}</duration></cdr>"
        )
    return "".join((*parts, "</cdrs>"))


def of_user(calls: Iterable[ActiveRow], user: str) -> list[ActiveRow]:
    """Calls that this user makes, or takes."""
    return [
        call for call in calls if user in (user_part(call.caller_aor), user_part(call.callee_aor))
    ]


def _text(text: str) -> str:
    return escape(text.translate(_CONTROLS))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


async def serve(listen: str, asked: Asked) -> web.AppRunner | None:
    """Serves at `HOST:PORT`; None where the port is taken: another worker answers there."""

    async def active(request: web.Request) -> web.Response:
        try:
            calls = await asked()
        except StreamAppError as error:
            return web.Response(status=503, text=f"{error}\n")
        name = request.query.get("name")
        if name:
            calls = of_user(calls, name)
        return web.Response(
            text=active_xml(calls, datetime.now(UTC)),
            content_type="text/xml",
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )

    app = web.Application()
    app.router.add_get("/activecdrs", active)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        log.warning("active_calls_not_served", extra={"listen": listen, "error": str(error)})
        return None
    log.info("active_calls_served", extra={"listen": listen})
    return runner
