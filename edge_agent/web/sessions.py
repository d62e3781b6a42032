"""Who sends a request, and what they may do."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.web.problem import ProblemError

ROLES = ("view", "feedback", "try")


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    user: str | None
    roles: frozenset[str]
    writes_until: float | None = None
    """Seconds since 1970; None if there is no end."""


# Who may write what. A path that is not here cannot be written to.
_WRITES = {"/api/v1/ask/": "try", "/api/v1/feedback": "feedback", "/api/v1/seen": "feedback"}


class Access:
    """ASGI middleware inside `guard.Guard`. It lets in only who may, so handlers ask nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["viewer"] = Viewer(user=None, roles=frozenset(ROLES))
        try:
            self._check(scope)
        except ProblemError as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if scope["method"] == "POST" and not any(scope["path"].startswith(path) for path in _WRITES):
            raise ProblemError(405, "method", "nothing can be written there", {"Allow": "GET, HEAD"})


def viewer_of(request: Request) -> Viewer:
    viewer: Viewer = request.scope["viewer"]
    return viewer


def author_of(request: Request, given: object) -> str | None:
    """Who writes: the user, or without users the name that the page gives, if it does. Raises ProblemError."""
    user = viewer_of(request).user
    if user is not None or given is None:
        return user
    if not isinstance(given, str) or not 1 <= len(given) <= 64 or not given.isprintable():
        raise ProblemError(400, "invalid", "by: should be a name of 1 to 64 printable characters")
    return given
