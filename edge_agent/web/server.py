"""The ASGI application: routes, static files, the form of errors."""

from collections.abc import Iterable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from edge_agent.web.guard import Door, Guard
from edge_agent.web.live import Live
from edge_agent.web.problem import ProblemError, json_response
from edge_agent.web.sessions import Access, Sessions

STATIC = Path(__file__).parent / "static"


def application(live: Live, door: Door, sessions: Sessions, routes: Iterable[BaseRoute] = ()) -> ASGIApp:
    """The whole page.

    Args:
        routes: What other parts answer below `/api/v1/`, each from its own module: a list of starlette's `Route`, whose
            handlers are `async`, raise `problem.ProblemError`, and take `live.lock` for short turns. Who may write to
            a path stands in `sessions`.
    """
    app = Starlette(
        routes=[
            *sessions.routes(live.site),
            *_Site(live).routes,
            *routes,
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        exception_handlers={ProblemError: _problem, HTTPException: _http_exception, Exception: _internal},
    )
    return Guard(Access(app, sessions), door)


class _Site:
    """What is known of the whole site."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.routes = [
            Route("/api/v1/changes", self._changes),
        ]

    async def _changes(self, request: Request) -> Response:
        after = request.query_params.get("after", "")
        cursor = int(after) if after.isascii() and after.isdecimal() and len(after) <= 20 else None
        with self._live.lock:
            return json_response(self._live.changes(cursor))


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method"}
    problem = ProblemError(error.status_code, codes.get(error.status_code, "failed"), str(error.detail).lower())
    problem.headers = dict(error.headers or {})
    return problem.response()


async def _internal(_request: Request, _error: Exception) -> Response:
    return ProblemError(500, "internal", "this is a fault of edge-agent web; its log says more").response()
