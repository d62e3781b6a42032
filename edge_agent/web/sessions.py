"""Who sends a request and what they may do: cookies, tokens, roles, and the limit on failed logins."""

import asyncio
import hashlib
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent import __version__
from edge_agent.commands.fields import MAX_BY_CHARS
from edge_agent.core.wording import printable
from edge_agent.web.guard import address_of
from edge_agent.web.kept_file import KeptFile
from edge_agent.web.problem import ProblemError, json_object_of, json_response, text_of
from edge_agent.web.users import MAX_PASSWORD, ROLES, User, Users, is_password_of

MAX_SESSIONS = 200
# At a shared screen, the next person may not be the one who logged in.
WRITES_S = 3600.0
# The longest time that a login lasts.
MAX_AGE_S = 30 * 86_400.0
MAX_FAILURES, FAILURES_S = 10, 300.0
_MAX_ADDRESSES = 1000
# Logins that wait while another password is being hashed.
_MAX_WAITING = 20
# The role that a write needs, by path prefix. Nothing else accepts writes.
_WRITES = {
    "/api/v1/login": None,
    "/api/v1/logout": None,
    "/api/v1/ask/": "try",
    "/api/v1/feedback": "feedback",
    "/api/v1/seen": "feedback",
}
# These can be read without the role view, like the static files, which are the same in every installation.
_OPEN = ("/api/v1/session",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who sends a request."""

    user: str | None
    roles: frozenset[str]
    writes_until: float | None = None
    """Seconds since 1970; None if there is no end."""
    has_cookie: bool = False


_WITHOUT_USERS = Viewer(user=None, roles=frozenset(ROLES))
_PUBLIC = Viewer(user=None, roles=frozenset({"view"}))
_ANONYMOUS = Viewer(user=None, roles=frozenset())


def viewer_of(request: Request) -> Viewer:
    viewer: Viewer = request.scope["viewer"]
    return viewer


def author_of(request: Request, given: object) -> str | None:
    """Who writes: the user, or without users the name given in the page, if any. Raises ProblemError."""
    user = viewer_of(request).user
    if user is not None or given is None:
        return user
    if not isinstance(given, str) or not 1 <= len(given) <= MAX_BY_CHARS or not given.isprintable():
        raise ProblemError(400, "invalid", f"by: should be a name of 1 to {MAX_BY_CHARS} printable characters")
    return given


@dataclass(slots=True, kw_only=True)
class _Session:
    name: str
    secret: str
    """A hash of the user's secret at the login. Changing the password ends the session."""
    password_at: float
    """When the password was given, in seconds of the monotonic clock."""


class Sessions:
    """Only the HTTP thread uses it.

    Args:
        users: With None there is no login, and everybody may do everything.
        is_public: Everybody may see the screens without a login.
        kept: Keeps logins for the next process.
    """

    def __init__(
        self,
        users: Users | None,
        *,
        is_public: bool = False,
        is_secure: bool = False,
        clock: Callable[[], float] = time.monotonic,
        kept: KeptFile | None = None,
    ) -> None:
        self._users = users
        self._is_public = is_public
        self._is_secure = is_secure
        self._clock = clock
        self._kept = kept
        # By the hash of the cookie's value, least recently used first.
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        if kept is not None and users is not None:
            self._sessions.update(kept.read(self._read, dict[str, _Session]()))
        self._limit = LoginLimit(clock)
        self._hashing = asyncio.Semaphore(1)
        self._waiting = 0
        # With this prefix, browsers accept the cookie only over https and only for this host.
        self._cookie = "__Host-edge-agent" if is_secure else "edge-agent"

    def _read(self, document: dict[str, Any]) -> dict[str, _Session]:
        sessions = {}
        for key, entry in list(document.items())[-MAX_SESSIONS:]:
            age_s = time.time() - entry["password_at"]
            # A clock that was set back must not extend the time in which the password counts.
            password_at = self._clock() - (age_s if age_s >= 0 else WRITES_S)
            sessions[key] = _Session(name=str(entry["name"]), secret=str(entry["secret"]), password_at=password_at)
        return sessions

    def _save(self) -> None:
        if self._kept is not None:
            now, wall = self._clock(), time.time()
            self._kept.save(
                {
                    key: {"name": one.name, "secret": one.secret, "password_at": wall - (now - one.password_at)}
                    for key, one in self._sessions.items()
                }
            )

    def viewer(self, headers: Headers, cookie: str | None) -> Viewer:
        """Raises ProblemError for a token that nobody has."""
        if self._users is None:
            return _WITHOUT_USERS
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            program = self._users.with_token(token.strip())
            if program is None:
                _check_readable(self._users)
                raise ProblemError(401, "login", "nobody has this token")
            return Viewer(user=program.name, roles=program.roles)
        session, user = self._session(cookie)
        if session is None or user is None:
            return _PUBLIC if self._is_public else _ANONYMOUS
        left_s = session.password_at + WRITES_S - self._clock()
        return Viewer(user=user.name, roles=user.roles, writes_until=round(time.time() + left_s, 1), has_cookie=True)

    def _session(self, cookie: str | None) -> tuple[_Session | None, User | None]:
        key = _hash_of(cookie or "")
        session = self._sessions.get(key)
        if session is None or self._users is None:
            return None, None
        user = self._users.named(session.name)
        is_over = self._clock() - session.password_at > MAX_AGE_S
        if user is None or is_over or _hash_of(user.secret) != session.secret:
            # A users file that cannot be read may be half written, and the login counts again with the whole one.
            if is_over or self._users.are_readable:
                self.logout(cookie)
            return None, None
        self._sessions.move_to_end(key)
        return session, user

    def cookie_in(self, request: Request) -> str | None:
        return request.cookies.get(self._cookie)

    async def login(self, name: str, password: str, address: str) -> tuple[str, User]:
        """Logs a person in. Returns the value of a new cookie and whose it is. Raises ProblemError."""
        if self._users is None:
            raise ProblemError(404, "not_found", "there are no users, so there is no login")
        _check_readable(self._users)
        wait_s = self._limit.count(address)
        if wait_s is not None:
            self._refuse(wait_s)
        if self._waiting >= _MAX_WAITING:
            self._limit.forgive(address)
            self._refuse(1.0)
        self._waiting += 1
        try:
            async with self._hashing:
                user = self._users.person(name)
                is_right = await asyncio.to_thread(is_password_of, user, password)
        finally:
            self._waiting -= 1
        if user is None or not is_right:
            raise ProblemError(401, "login", "the name or the password is wrong")
        self._limit.forgive(address)
        value = secrets.token_urlsafe(32)
        self._sessions[_hash_of(value)] = _Session(
            name=user.name, secret=_hash_of(user.secret), password_at=self._clock()
        )
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        self._save()
        return value, user

    def _refuse(self, wait_s: float) -> None:
        seconds = str(math.ceil(wait_s))
        raise ProblemError(429, "too_many_logins", f"too many logins: wait {seconds} s", {"Retry-After": seconds})

    def logout(self, cookie: str | None) -> None:
        if self._sessions.pop(_hash_of(cookie or ""), None) is not None:
            self._save()

    def set_cookie(self, response: Response, value: str | None) -> None:
        """Sets the cookie; None deletes it."""
        response.set_cookie(
            self._cookie,
            value or "",
            max_age=None if value else 0,
            httponly=True,
            secure=self._is_secure,
            samesite="strict",
        )

    def routes(self, site: str) -> list[Route]:
        def session(viewer: Viewer) -> Response:
            return json_response(
                {
                    "user": viewer.user,
                    "roles": sorted(viewer.roles),
                    "has_users": self._users is not None,
                    "writes_until": viewer.writes_until,
                    "site": printable(site),
                    "version": __version__,
                }
            )

        async def get_session(request: Request) -> Response:
            return session(viewer_of(request))

        async def login(request: Request) -> Response:
            document = await json_object_of(request)
            name, password = text_of(document, "user", 64), text_of(document, "password", MAX_PASSWORD)
            value, _ = await self.login(name, password, request.client.host if request.client else "")
            self.logout(self.cookie_in(request))
            response = session(self.viewer(Headers(), value))
            self.set_cookie(response, value)
            return response

        async def logout(request: Request) -> Response:
            self.logout(self.cookie_in(request))
            response = session(self.viewer(Headers(), None))
            self.set_cookie(response, None)
            return response

        return [
            Route("/api/v1/session", get_session),
            Route("/api/v1/login", login, methods=["POST"]),
            Route("/api/v1/logout", logout, methods=["POST"]),
        ]


def _check_readable(users: Users) -> None:
    """Raises ProblemError."""
    if not users.are_readable:
        raise ProblemError(503, "users_unreadable", "the users file cannot be read; see the log of edge-agent web")


def _hash_of(value: str) -> str:
    """A hash, so that neither memory, the kept file nor the time of a lookup reveals a cookie or a user's secret."""
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


class LoginLimit:
    """Limits failed logins by address. An attempt counts as failed until it succeeds, so parallel ones gain nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, address: str) -> float | None:
        """Counts an attempt. If there were too many, it counts nothing and returns the seconds to wait."""
        now, network = self._clock(), _network(address)
        failed = self._failed.setdefault(network, deque(maxlen=MAX_FAILURES))
        self._failed.move_to_end(network)
        while failed and now - failed[0] >= FAILURES_S:
            failed.popleft()
        if len(failed) >= MAX_FAILURES:
            return failed[0] + FAILURES_S - now
        failed.append(now)
        if len(self._failed) > _MAX_ADDRESSES:
            self._failed.popitem(last=False)
        return None

    def forgive(self, address: str) -> None:
        """Takes the latest attempt back, because it did not fail."""
        if failed := self._failed.get(_network(address)):
            failed.pop()


def _network(address: str) -> str:
    """The network that counts as one address, because a machine may use any address of its IPv6 /64."""
    parsed = address_of(address)
    return address if parsed is None or parsed.version == 4 else parsed.exploded[:19]


class Access:
    """ASGI middleware inside `guard.Guard`. It checks roles, so handlers need not."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = Request(scope)
            viewer = scope["viewer"] = self._sessions.viewer(request.headers, self._sessions.cookie_in(request))
            _check(viewer, request)
        except ProblemError as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _check(viewer: Viewer, request: Request) -> None:
    path = request.url.path
    if request.method != "POST":
        if any(path.startswith(prefix) for prefix in _WRITES):
            raise ProblemError(405, "method", "this path takes only POST", {"Allow": "POST"})
        is_open = path in _OPEN or not (path.startswith("/api/") or path == "/boards.txt")
        role = None if is_open else "view"
    else:
        prefix = next((prefix for prefix in _WRITES if path.startswith(prefix)), None)
        if prefix is None:
            raise ProblemError(405, "method", "this path accepts no writes", {"Allow": "GET, HEAD"})
        role = _WRITES[prefix]
        if viewer.has_cookie and "origin" not in request.headers:
            raise ProblemError(403, "origin", "a browser's write needs the header Origin")
    if role is None:
        return
    if role not in viewer.roles:
        if viewer.user is None:
            raise ProblemError(401, "login", "please log in")
        raise ProblemError(403, "role", f"{printable(viewer.user)} does not have the role {role}")
    if role != "view" and viewer.writes_until is not None and viewer.writes_until <= time.time():
        raise ProblemError(403, "login_again", "please enter your password again: the last time was over an hour ago")
