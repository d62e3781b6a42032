"""The page without a broker. Boards say what a test gives them, and a client asks as a browser would."""

import asyncio
import ipaddress
import time
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Message
from edge_agent.tools.watch.site import Site
from edge_agent.web.guard import Endpoint
from edge_agent.web.journal import Journal
from edge_agent.web.kept_file import KeptFile
from edge_agent.web.live import Live
from edge_agent.web.server import application
from edge_agent.web.sessions import Sessions
from edge_agent.web.users import Users

HOST = "127.0.0.1:8780"
WRITE = {"X-Edge-Agent": "1"}
ORIGIN = {**WRITE, "Origin": f"http://{HOST}"}
LOOPBACK = ipaddress.ip_address("127.0.0.1")


def said(topic: str, payload: bytes, *, is_retained: bool = False) -> Message:
    """A message of the site hall1, such as of `press-04/state`."""
    return Message(
        topic=f"edgeai/v1/hall1/{topic}",
        payload=payload,
        qos=1,
        packet_id=1,
        is_retained=is_retained,
        received_at=time.monotonic(),
    )


class Browser:
    """Asks the application without a network, one request after the other, and keeps its cookies."""

    def __init__(self, app: ASGIApp, address: str = "127.0.0.1", scheme: str = "http") -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 50000))
        self._client = httpx.AsyncClient(transport=transport, base_url=f"{scheme}://{HOST}")

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._client.request(method, path, **more))

    @property
    def cookies(self) -> httpx.Cookies:
        return self._client.cookies

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, document: Any = None, **more: Any) -> httpx.Response:
        """A write as the page sends it, unless `more` says otherwise."""
        content = {} if "content" in more else {"json": document}
        return self.request("POST", path, **{"headers": WRITE, **content, **more})


class Page:
    def __init__(
        self, users: Users | None = None, *, is_public: bool = False, folder: Path | None = None, **endpoint: Any
    ) -> None:
        """`folder` is where journal and logins are kept; without it, there are none on the disk."""
        self.now = 1000.0
        self.live = Live(MqttConfig(), "hall1", Journal(folder or Path("/nowhere")))
        self.site = Site("edgeai/v1", "hall1")
        self.endpoint = Endpoint(**{"listens_on": LOOPBACK, **endpoint})
        kept = None if folder is None else KeptFile(folder / "logins.json", "logins", 100_000)
        self.sessions = Sessions(
            users, is_public=is_public, is_secure=self.endpoint.is_secure, clock=lambda: self.now, kept=kept
        )
        self.app = application(self.live, self.endpoint, self.sessions)
        self.client = Browser(self.app)

    def hear(self, *messages: Message) -> None:
        """The boards say this, and the rows follow."""
        for message in messages:
            self.site.receive(message, time.time())
        self.update()

    def update(self) -> None:
        self.live.take_rows(self.site.rows(time.monotonic()), time.time())
        self.live.answers.tick(time.monotonic())

    def changes(self, after: int | None = None) -> Any:
        return self.client.get("/api/v1/changes", params={} if after is None else {"after": after}).json()
