"""The ASGI application: routes of the site and its boards, static files, and how errors are answered."""

import asyncio
import io
import logging
import time
from pathlib import Path

from rich.console import Console
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from edge_agent.core.strict_json import number_of
from edge_agent.core.wording import printable, shown
from edge_agent.tools.watch.site import Row
from edge_agent.tools.watch.table import site_view
from edge_agent.web.boards import task_documents, tasks_of
from edge_agent.web.guard import Endpoint, Guard
from edge_agent.web.journal import Entry, as_csv
from edge_agent.web.live import Live
from edge_agent.web.problem import ProblemError, count_in_query, json_object_of, json_response, text_of
from edge_agent.web.routes import answer_routes
from edge_agent.web.sessions import Access, Sessions, author_of
from edge_agent.web.signals import signals_document

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_DAY_S = 86_400
_DEFAULT_ENTRIES, _MAX_ENTRIES = 500, 10_000
# In the year 9999, the last one that RFC 3339 has.
_LATEST = 253_402_000_000
_TABLE_WIDTH = 160


def application(live: Live, endpoint: Endpoint, sessions: Sessions) -> ASGIApp:
    """The whole page. Call it before `live.start()`, because it adds the parts that its routes need.

    Handlers are `async`, raise `problem.ProblemError` and hold `live.lock` only briefly. `sessions` says which role may
    write to which path.
    """
    app = Starlette(
        routes=[
            *sessions.routes(live.site),
            *_SiteRoutes(live).routes,
            *answer_routes(live),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        exception_handlers={ProblemError: _problem, HTTPException: _http_exception, Exception: _internal},
    )
    return Guard(Access(app, sessions), endpoint)


class _SiteRoutes:
    """The routes of boards, alarms and the journal."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.routes = [
            Route("/api/v1/changes", self._changes),
            Route("/api/v1/boards/{device}", self._board),
            Route("/api/v1/journal", self._journal),
            Route("/api/v1/seen", self._seen, methods=["POST"]),
            Route("/boards.txt", self._table),
        ]
        # Reading the whole journal takes a second of CPU time.
        self._reading = asyncio.Semaphore(1)

    async def _changes(self, request: Request) -> Response:
        with self._live.lock:
            return json_response(self._live.changes(count_in_query(request, "after")))

    async def _board(self, request: Request) -> Response:
        live, now = self._live, time.time()
        with live.lock:
            row = self._row(request.path_params["device"])
            board = live.boards.document(row.device)
            checks = live.answers.checks
            promises = {name: next(iter(checks.promises(row.device, name)), None) for name, _ in tasks_of(row)}
            open_checks = {name: checks.count_open(row.device, name) for name, _ in tasks_of(row)}
            heard = live.signals.heard_of(row.device)
            entries = live.journal.recent(now - _DAY_S, printable(row.device))
        document = {
            "now": now,
            "board": board,
            "tasks": task_documents(row, promises, open_checks),
            "signals": signals_document(row, heard),
            "journal": [entry.as_json() for entry in entries],
        }
        return json_response(document)

    def _row(self, device: str) -> Row:
        """A board by its name as the page shows it. Raises ProblemError."""
        row = self._live.rows.get(device)
        if row is None:
            row = next((row for name, row in self._live.rows.items() if printable(name) == device), None)
        if row is None:
            raise ProblemError(404, "unknown_board", f"there is no board {shown(device)}")
        return row

    async def _journal(self, request: Request) -> Response:
        query = request.query_params
        limit = min(int(_number_in_query(query, "limit") or _DEFAULT_ENTRIES), _MAX_ENTRIES)
        is_csv = query.get("format") == "csv"
        async with self._reading:
            entries = await asyncio.to_thread(
                self._live.journal.read,
                since=_number_in_query(query, "from"),
                until=_number_in_query(query, "to"),
                device=query.get("device") or None,
                what=frozenset(filter(None, query.get("what", "").split(","))),
                has_feedback=is_csv,
                limit=_MAX_ENTRIES if is_csv and "limit" not in query else limit,
            )
            if is_csv:
                content = await asyncio.to_thread(as_csv, entries)
                headers = {"Content-Disposition": 'attachment; filename="journal.csv"'}
                return Response(content, media_type="text/csv", headers=headers)
            return json_response({"now": time.time(), "journal": [entry.as_json() for entry in entries]})

    async def _seen(self, request: Request) -> Response:
        """Records that a person has seen an alarm. The alarm stays until it ends."""
        document = await json_object_of(request)
        device, alarm = text_of(document, "device"), text_of(document, "alarm")
        by = author_of(request, document.get("by"))
        with self._live.lock:
            row = self._row(device)
            name = next((name for name, _ in row.alarms if printable(name[:64]) == alarm), None)
            if name is None:
                raise ProblemError(404, "unknown_alarm", f"{printable(row.device)} has no alarm {shown(alarm)} now")
            entry = Entry(at=time.time(), what="seen", device=row.device, name=name[:64], by=by)
            self._live.journal.add(entry)
        return json_response(entry.as_json())

    async def _table(self, _request: Request) -> Response:
        with self._live.lock:
            rows, broker, trouble = self._live.table()
        text = await asyncio.to_thread(_plain_table, self._live.site, rows, broker, trouble)
        return Response(text, media_type="text/plain")


def _number_in_query(query: QueryParams, name: str) -> float | None:
    """Raises ProblemError."""
    text = query.get(name)
    if not text:
        return None
    value = number_of(text)
    if value is None or not 0 <= value <= _LATEST:
        raise ProblemError(400, "invalid", f"{name}: should be a number, not below 0 (got {shown(text)})")
    return value


def _plain_table(site: str, rows: list[Row], broker: str, trouble: str | None) -> str:
    """The table of `edge-agent watch`."""
    console = Console(file=io.StringIO(), width=_TABLE_WIDTH, color_system=None, highlight=False)
    console.print(
        site_view(
            rows,
            site=site,
            broker=broker,
            trouble=trouble,
            width=_TABLE_WIDTH,
            wall=time.time(),
            clock=time.strftime("%H:%M:%S"),
        )
    )
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method"}
    problem = ProblemError(error.status_code, codes.get(error.status_code, "failed"), str(error.detail).lower())
    problem.headers = dict(error.headers or {})
    return problem.response()


async def _internal(request: Request, error: Exception) -> Response:
    log.error("a request failed: %s %s", request.method, shown(request.url.path), exc_info=error)
    return ProblemError(500, "internal", "this is a fault in edge-agent web; see its log").response()
