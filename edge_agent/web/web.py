"""`edge-agent web`. START HERE: makes parts of the options, runs the bus thread and the HTTP server, stops cleanly."""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import re
import signal
import socket
import ssl
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.core.log_limit import BoundedHandler
from edge_agent.core.state_lock import StateInUseError, locked
from edge_agent.core.terminal import fail
from edge_agent.core.wording import file_fault, printable, shown, shown_path
from edge_agent.tools.bus import Bus, OptionError
from edge_agent.tools.watch.expected import expected_of
from edge_agent.web.guard import MAX_HEADER_BYTES, Endpoint, Network, address_of, host_name
from edge_agent.web.journal import Journal, default_folder
from edge_agent.web.kept_file import KeptFile
from edge_agent.web.live import Live
from edge_agent.web.server import application
from edge_agent.web.sessions import Sessions
from edge_agent.web.users import Users, UsersError

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:8780"
# For all viewers together, as each browser keeps two or three open.
_MAX_CONNECTIONS = 512
_KEEP_ALIVE_S = 15
_FIRST_REQUEST_S = 10.0
_STOP_S = 1
_BACKLOG = 128
_MAX_LOGINS_BYTES = 1_000_000


def web(options: argparse.Namespace, bus: Bus) -> int:
    """Serves the page until it is stopped. Returns the exit code. Raises OptionError."""
    endpoint, port = endpoint_of(options)
    users = _users_of(options)
    expected = expected_of(options.expect, bus.site)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", handlers=[BoundedHandler(sys.stderr)])
    # uvicorn warns about every request that is not HTTP; `server` logs our own failures.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    folder = options.data or default_folder() / bus.site
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return fail(f"--data: {shown_path(folder)} cannot be created: {error.strerror}")
    try:
        with locked(folder):
            try:
                family = socket.AF_INET6 if endpoint.listens_on.version == 6 else socket.AF_INET
                listener = socket.create_server((str(endpoint.listens_on), port), family=family, backlog=_BACKLOG)
            except OSError as error:
                return fail(f"cannot listen on {options.listen}: {error.strerror}")
            with listener:
                return asyncio.run(_serve(options, bus, endpoint, users, Journal(folder), expected, listener))
    except StateInUseError:
        return fail(f"--data: {shown_path(folder)} is in use by another process: each needs its own")


def _users_of(options: argparse.Namespace) -> Users | None:
    """Raises OptionError."""
    if options.users is None:
        if options.public_view:
            raise OptionError("--public-view: requires --users; without users, everybody may see and do everything")
        return None
    if fault := file_fault("--users", options.users):
        raise OptionError(f"{fault}: `edge-agent web user add` writes it")
    try:
        return Users(options.users)
    except (UsersError, OSError) as error:
        raise OptionError(f"--users: {error} (got {shown_path(options.users)})") from error


def endpoint_of(options: argparse.Namespace) -> tuple[Endpoint, int]:
    """Where the page is reached, and its port. Raises OptionError."""
    faults = [
        fault
        for flag, file in (("--web-cert-file", options.web_cert_file), ("--web-key-file", options.web_key_file))
        if (fault := file_fault(flag, file))
    ]
    if options.web_key_file and not options.web_cert_file:
        faults.append("--web-key-file: requires --web-cert-file")
    name, _, port = options.listen.rpartition(":")
    host = host_name(options.listen)
    address = address_of("127.0.0.1" if host == "localhost" else host or "")
    if address is None or not name or not port.isdecimal() or int(port) > 65535:
        faults.append(f"--listen: should be ADDRESS:PORT, such as {DEFAULT_LISTEN} (got {shown(options.listen)})")
    bad_names = [name for name in options.name if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", name)]
    faults += [f"--name: should be a host name, without a port (got {shown(name)})" for name in bad_names]
    proxies = list[Network]()
    for text in options.behind_proxy:
        try:
            proxies.append(ipaddress.ip_network(text))
        except ValueError:
            faults.append(f"--behind-proxy: should be the proxy's IP address (got {shown(text)})")
    if faults or address is None:
        raise OptionError("; ".join(faults))
    if options.users is None and proxies:
        raise OptionError("--behind-proxy: requires --users, because others can reach the page through a proxy")
    if not address.is_loopback and (options.users is None or not (options.web_cert_file or proxies)):
        raise OptionError(
            f"--listen: an address that other machines can reach requires --users, and either --web-cert-file or "
            f"--behind-proxy (got {shown(options.listen)})"
        )
    endpoint = Endpoint(
        listens_on=address,
        names=frozenset(name.lower() for name in options.name),
        proxies=tuple(proxies),
        has_tls=options.web_cert_file is not None,
    )
    if endpoint.has_tls:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                options.web_cert_file, options.web_key_file
            )
        except (OSError, ssl.SSLError) as error:
            if options.web_key_file is None and isinstance(error, ssl.SSLError):
                file = shown_path(options.web_cert_file)
                raise OptionError(
                    f"--web-cert-file: {file} holds no certificate with its key: --web-key-file"
                ) from error
            raise OptionError(f"--web-cert-file: cannot be used: {printable(str(error))}") from error
    return endpoint, int(port)


class _Protocol(H11Protocol):
    """Closes a connection on which no request arrives; uvicorn would keep it until no more are accepted."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_FIRST_REQUEST_S, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`; uvicorn would end the process by the signal instead of with an exit code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    options: argparse.Namespace,
    bus: Bus,
    endpoint: Endpoint,
    users: Users | None,
    journal: Journal,
    expected: Iterable[str],
    listener: socket.socket,
) -> int:
    loop = asyncio.get_running_loop()
    has_failed = False

    def stop(*, failed: bool = False) -> None:
        nonlocal has_failed
        has_failed |= failed
        server.should_exit = True

    # Called in the bus thread.
    live = Live(
        bus.mqtt, bus.site, journal, lambda: loop.call_soon_threadsafe(lambda: stop(failed=True)), expected=expected
    )
    kept = KeptFile(journal.folder / "logins.json", "logins", _MAX_LOGINS_BYTES)
    sessions = Sessions(users, is_public=options.public_view, is_secure=endpoint.is_secure, kept=kept)
    app = application(live, endpoint, sessions)
    server = _Server(_config(app, options.web_cert_file, options.web_key_file))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    live.start()
    try:
        print(printable(f"{bus.site}: {_address(options, endpoint, listener)}"), flush=True)
        if not options.name and not endpoint.listens_on.is_loopback:
            log.warning("without --name, browsers reach the page only by its IP address")
        await server.serve(sockets=[listener])
    finally:
        live.stop()
    return 1 if has_failed else 0


def _address(options: argparse.Namespace, endpoint: Endpoint, listener: socket.socket) -> str:
    """Where browsers reach the page."""
    host, port = listener.getsockname()[:2]
    if options.name and endpoint.proxies:
        return f"https://{options.name[0]}/"
    host = options.name[0] if options.name else f"[{host}]" if endpoint.listens_on.version == 6 else host
    return f"{'https' if endpoint.has_tls else 'http'}://{host}:{port}/"


def _config(app: object, cert_file: Path | None, key_file: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        ssl_certfile=cert_file,
        ssl_keyfile=key_file,
    )
