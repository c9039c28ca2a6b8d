"""The routes, and what ties pages, live feed, searches and metrics together.

Owns the Starlette application and its life. Refuses to judge and to render.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from confluent_kafka import KafkaException
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.responses import StreamingResponse as Streaming
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from ops.dashboard.access import Access, RateLimit
from ops.dashboard.boards import Boards
from ops.dashboard.calls import Busy, Calls, Search, begun, search_of
from ops.dashboard.ladder import ladder
from ops.dashboard.live import Live
from ops.dashboard.pages import FOLDER, LIVE, Pages
from ops.dashboard.revisions import Revisions, revisions
from ops.dashboard.runbook import runbook
from ops.dashboard.serving import Serving
from ops.errors import ConfigError, OpsError
from ops.explain import why
from ops.explain_sink import from_sink
from ops.monitor import Sampler
from ops.monitor.sources import sink_dsn
from ops.redaction import scrub

if TYPE_CHECKING:
    from ops.dashboard.open_call import OpenCall

log = logging.getLogger(__name__)

SEARCHES_A_SECOND: Final = 2.0
SEARCHES_AT_ONCE: Final = 20


class _Static(StaticFiles):
    """Files of ours and uPlot; they change with the version, which is in their query."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "public, max-age=86400"
        return response


class Site:
    """The pages of one process."""

    def __init__(self, serving: Serving, sampler: Sampler, boards: Boards) -> None:
        self._serving = serving
        self._sampler = sampler
        self._calls = Calls(serving.watched)
        self._sink_dsn = sink_dsn(serving.watched)
        self._pages = Pages(serving, sampler, boards)
        self.live = Live(self._pages.fragment, serving.clients_max)
        self._searches = RateLimit(SEARCHES_A_SECOND, SEARCHES_AT_ONCE)

    def app(self) -> ASGIApp:
        """With all middleware around it."""
        routes = [
            *(
                Route(path, self._simple(name))
                for name, path in (
                    *(("overview", "/"), ("quality", "/quality")),
                    *(("gaps", "/gaps"), ("replays", "/replays")),
                )
            ),
            Route("/calls", self._find),
            Route("/calls/{call_id:path}", self._call),
            Route("/live", self._live),
            Route("/history.json", self._history),
            Route("/status.json", self._status),
            Route("/login", self._login, methods=["GET"]),
            Route("/runbook", self._runbook),
            Route("/healthz", _healthy),
            Mount("/static", _Static(directory=FOLDER / "static")),
        ]
        app = Starlette(
            routes=routes,
            lifespan=self._life,
            exception_handlers={404: self._not_found, Exception: self._failed},
        )
        serving = self._serving
        return Access(GZipMiddleware(app, minimum_size=500), serving.door, serving.host)

    @asynccontextmanager
    async def _life(self, _app: Starlette) -> AsyncIterator[None]:
        sending = asyncio.create_task(self.live.run())
        try:
            yield
        finally:
            sending.cancel()

    def _simple(self, name: str) -> Callable[[Request], Response]:
        async def show(_request: Request) -> Response:
            return HTMLResponse(self._pages.page(name))

        return show  # type: ignore[return-value]

    async def _find(self, request: Request) -> Response:
        if not self._searches.allows(_client(request)):
            return self._problem(
                429, "Too many searches.", "Wait a few seconds, then search again."
            )
        try:
            search = search_of(request.query_params)
            found = await self._calls.find(search)
        except ConfigError as error:
            return HTMLResponse(
                self._pages.page("calls", search=Search(), found=None, trouble=str(error)), 400
            )
        except Busy:
            return self._problem(503, "Four searches run already.", "Try again in a few seconds.")
        except psycopg.Error as error:
            return HTMLResponse(
                self._pages.page("calls", search=search, found=None, trouble=_words(error)), 503
            )
        return HTMLResponse(self._pages.page("calls", search=search, found=found, trouble=""))

    async def _call(self, request: Request) -> Response:
        call_id = request.path_params["call_id"]
        if not self._searches.allows(_client(request)):
            return self._problem(429, "Too many searches.", "Wait a few seconds, then try again.")
        if "\x00" in call_id or len(call_id) > 4_096:
            return self._problem(404, "No call has such a Call-ID.", "Search for it: Calls.")
        by_clock = request.query_params.get("order") == "clock"
        try:
            found = await self._told(call_id)
        except (psycopg.Error, Busy) as error:
            return self._problem(503, "The database does not answer.", _words(error))
        if found is not None:
            provenance, cdr, hidden = found
            history = await self._revisions(call_id, provenance)
            return HTMLResponse(
                self._pages.page(
                    "call",
                    call_id=call_id,
                    cdr=cdr,
                    why=why(provenance, cdr, hidden),
                    provenance=provenance,
                    revisions=history,
                    opened=None,
                    ladder=ladder(provenance, by_clock=by_clock),
                )
            )
        return await self._still_open(call_id, by_clock=by_clock)

    async def _told(self, call_id: str) -> tuple[dict[str, Any], dict[str, Any] | None, str] | None:
        """The call as the sink has it; None where it is not there."""

        def read(_connection: object) -> tuple[dict[str, Any], dict[str, Any] | None, str] | None:
            try:
                schema = self._serving.watched.sink_schema
                found = from_sink(self._sink_dsn, call_id, schema)
            except OpsError:
                return None
            return found.provenance, found.cdr, found.hidden

        return await self._calls.ask(read)

    async def _revisions(self, call_id: str, provenance: dict[str, Any]) -> Revisions:
        """Of a call that was told more than once; of the others there is nothing to tell."""
        if not provenance.get("changed") and not provenance.get("late_events"):
            return Revisions([], whole=True)
        try:
            return await asyncio.to_thread(
                revisions, self._serving.watched.broker, self._serving.cdrs_topic, call_id
            )
        except KafkaException as error:
            log.warning("revisions_not_read", extra={"error": _words(error)})
            return Revisions([], whole=False)

    async def _still_open(self, call_id: str, *, by_clock: bool) -> Response:
        trouble = ""
        opened = None
        try:
            opened = await asyncio.to_thread(self._looked_for, call_id, await self._begun(call_id))
        except KafkaException as error:
            trouble = _words(error)
        provenance = None if opened is None else opened.provenance
        page = self._pages.page(
            "call",
            call_id=call_id,
            cdr=None if opened is None else opened.cdr,
            why=(),
            provenance=provenance,
            revisions=Revisions([], whole=True),
            opened=opened,
            trouble=trouble,
            ladder=None if provenance is None else ladder(provenance, by_clock=by_clock),
        )
        known = opened is not None and opened.events > 0
        return HTMLResponse(page, 200 if known else 404)

    async def _begun(self, call_id: str) -> tuple[float, ...]:
        """When a call in progress began and was answered; nothing where it is not known."""
        try:
            return await self._calls.ask(lambda connection: begun(connection, call_id))
        except (psycopg.Error, Busy):
            return ()

    def _looked_for(self, call_id: str, moments: Sequence[float]) -> OpenCall:
        # Here: resolving a call takes 4 MB that few page views need.
        from ops.dashboard.open_call import look  # noqa: PLC0415

        serving, picture = self._serving, self._sampler.picture()
        return look(serving.watched.broker, serving.resolution, call_id, picture, moments)

    async def _live(self, request: Request) -> Response:
        page = request.query_params.get("page", "")
        if page not in LIVE:
            return PlainTextResponse("no such page\n", 404)
        if self.live.full:
            return PlainTextResponse("too many look\n", 503, headers={"retry-after": "30"})
        return Streaming(
            self.live.follow(page),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no", "cache-control": "no-store"},
        )

    async def _history(self, _request: Request) -> Response:
        return JSONResponse(self._sampler.history.columns(self._sampler.rules.servers))

    async def _status(self, _request: Request) -> Response:
        return JSONResponse(self._sampler.picture())

    async def _login(self, request: Request) -> Response:
        return HTMLResponse(
            self._pages.page("login", wrong=request.query_params.get("wrong") == "1")
        )

    async def _runbook(self, _request: Request) -> Response:
        return HTMLResponse(self._pages.page("runbook", text=runbook()))

    async def _not_found(self, _request: Request, _error: Exception) -> Response:
        return self._problem(404, "There is no such page.", "The pages are named above.")

    async def _failed(self, request: Request, error: Exception) -> Response:
        log.error("page_failed", extra={"path": request.url.path[:80]}, exc_info=error)
        return self._problem(500, "This page failed.", "The log of the dashboard says why.")

    def _problem(self, code: int, text: str, advice: str) -> Response:
        return HTMLResponse(self._pages.page("problem", text=text, advice=advice), code)


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _words(error: Exception) -> str:
    if isinstance(error, Busy):
        return "Others are asking; try again in a few seconds."
    return " ".join(scrub(str(error)).split())[:300] or type(error).__name__


async def _healthy(_request: Request) -> Response:
    return PlainTextResponse("ok\n")
