"""Checks every request before anything else reads it, and adds the headers of every response."""

import asyncio
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.core.wording import shown
from edge_agent.web.problem import JSON_TYPE, ProblemError

# Enough for an input of 64 kB in its envelope.
MAX_BODY_BYTES = 72 * 1024
# uvicorn bounds headers only until they are complete.
MAX_HEADER_BYTES = 16 * 1024
_BODY_S = 10.0
_READS = ("GET", "HEAD")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]{1,5})?")
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The names and addresses at which the page is reached."""

    listens_on: Address
    names: frozenset[str] = frozenset()
    """The names that Host may have besides localhost, in lower case."""
    proxies: tuple[Network, ...] = ()
    """If there are any, only these may connect, and the client's address is the last one in X-Forwarded-For."""
    has_tls: bool = False

    @property
    def is_secure(self) -> bool:
        """True if browsers use https."""
        return self.has_tls or bool(self.proxies)

    def accepts_host(self, host: str) -> bool:
        """Whether Host names this page. It refuses names that an attacker's DNS points here (DNS rebinding)."""
        name = host_name(host)
        if name is None:
            return False
        if name == "localhost" or name in self.names:
            return True
        address = address_of(name)
        return address is not None and (
            address.is_loopback or self.listens_on.is_unspecified or address == self.listens_on
        )

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Whether a request comes from this page. Another port of the same machine is another page."""
        scheme, _, authority = origin.lower().partition("://")
        if scheme != ("https" if self.is_secure else "http"):
            return False
        # A proxy may change Host.
        return authority == host.lower() or (bool(self.proxies) and authority in self.names)


def host_name(host: str) -> str | None:
    """The name or address in `name:port`, in lower case; None if it is not a host."""
    parts = _HOST.fullmatch(host.lower())
    return None if parts is None else parts[1] or parts[2]


def address_of(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class Guard:
    """ASGI middleware. Inside it, Host is ours, and no write comes from another site's page."""

    def __init__(self, app: ASGIApp, endpoint: Endpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        is_api = scope["path"].startswith("/api/") or scope["path"] == "/boards.txt"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                # Static files have an ETag, with which the browser revalidates them.
                headers["Cache-Control"] = "no-store" if is_api else "no-cache"
            await send(message)

        try:
            self._check(scope)
            body = None if scope["method"] in _READS else await _read_body(Headers(scope=scope), receive)
        except _GoneError:
            return
        except ProblemError as problem:
            response = problem.response()
            # Otherwise the rest of the body would be read as the next request.
            response.headers["Connection"] = "close"
            await response(scope, receive, send_with_headers)
            return
        await self._app(scope, receive if body is None else _replay(body, receive), send_with_headers)

    def _check(self, scope: Scope) -> None:
        """Notes the client's address in the scope. Raises ProblemError."""
        headers, endpoint = Headers(scope=scope), self._endpoint
        scope["client"] = (self._client(scope, headers), 0)
        if sum(len(name) + len(value) for name, value in headers.raw) + len(scope["query_string"]) > MAX_HEADER_BYTES:
            raise ProblemError(431, "too_long", f"headers and query may have at most {MAX_HEADER_BYTES} bytes")
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy may take another part of it for the body than we do.
            raise ProblemError(400, "invalid", "should have one of Content-Length and Transfer-Encoding")
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not endpoint.accepts_host(host):
            raise ProblemError(421, "unknown_host", f"Host: {shown(host)} is not a name of this page: --name adds one")
        if scope["method"] in _READS:
            return
        if scope["method"] != "POST":
            raise ProblemError(405, "method", "only GET and POST are allowed", {"Allow": "GET, HEAD, POST"})
        if headers.get("x-edge-agent") != "1":
            raise ProblemError(403, "header", "a write needs the header X-Edge-Agent: 1")
        origin = headers.get("origin")
        if origin is not None and not endpoint.accepts_origin(origin, host):
            raise ProblemError(403, "origin", f"Origin: {shown(origin)} is not this page")
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_ask = scope["path"].startswith("/api/v1/ask/")
        types = (JSON_TYPE, "text/plain") if is_ask else (JSON_TYPE,)
        if content_type not in types:
            wanted = " or ".join(types)
            raise ProblemError(415, "content_type", f"Content-Type should be {wanted} (got {shown(content_type)})")

    def _client(self, scope: Scope, headers: Headers) -> str:
        """The address of the client, also behind the proxy."""
        peer = (scope.get("client") or ("",))[0]
        if not self._endpoint.proxies:
            return peer
        address = address_of(peer)
        if address is None or not _is_in(address, self._endpoint.proxies):
            raise ProblemError(403, "not_the_proxy", "only the proxy of --behind-proxy may connect")
        # A proxy appends the address that it saw, some in a line of its own, some with the port; the client may have
        # made up what comes before.
        forwarded = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()[:64]
        return host_name(forwarded) or forwarded or peer


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)


class _GoneError(Exception):
    """The client has closed the connection."""


async def _read_body(headers: Headers, receive: Receive) -> bytes:
    """Reads the whole body, within limits on length and time. Raises ProblemError, _GoneError."""
    too_long = ProblemError(413, "too_long", f"a body may have at most {MAX_BODY_BYTES} bytes")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise too_long
    chunks, size = list[bytes](), 0
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > MAX_BODY_BYTES:
                    raise too_long
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        raise ProblemError(408, "too_slow", f"the body did not arrive within {_BODY_S:.0f} s") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns the body once more, then whatever follows it."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
