"""`edge-agent web` as a process."""

import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx
from playwright._impl._api_structures import SetCookieParam

from edge_agent.web.users import User, hashed_password, write_users
from tests.helpers.processes import EDGE_AGENT, ends, free_port, wait_until

PASSWORD = "a long password"
WRITE = {"X-Edge-Agent": "1"}


def users_file(path: Path, **roles: tuple[str, ...]) -> Path:
    """A file of people with PASSWORD, and what they may do besides looking."""
    write_users(
        path,
        [User(name=name, roles=frozenset(given), secret=hashed_password(PASSWORD)) for name, given in roles.items()],
    )
    return path


class Person:
    """Asks the page as a browser does, and keeps its cookies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=f"{url}/api/v1/", headers={"Origin": url}, timeout=30)

    def get(self, path: str, **query: Any) -> Any:
        """The document of an address below /api/v1."""
        answer = self._client.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, document: Any, headers: Mapping[str, str] = WRITE) -> httpx.Response:
        return self._client.post(path, json=document, headers=headers)

    def log_in(self, name: str) -> Self:
        self.post("login", {"user": name, "password": PASSWORD}).raise_for_status()
        return self

    def close(self) -> None:
        self._client.close()

    @property
    def cookies(self) -> list[SetCookieParam]:
        """For a tab's `add_cookies`."""
        return [{"name": name, "value": value, "url": self.url} for name, value in self._client.cookies.items()]


class PageProcess:
    """Serves the page while the context is entered, with its journal and its log in the folder."""

    def __init__(
        self, folder: Path, broker_port: int, *words: str, site: str = "hall1", port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "page"
        self._log_path = folder / "web.log"
        self._command = [
            *EDGE_AGENT, "web", "--host", "127.0.0.1", "--port", str(broker_port), "--site", site,
            "--listen", f"127.0.0.1:{self.port}", "--data", str(self.data), *words,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log_path.read_text("utf-8", errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def get(self, path: str, **query: Any) -> Any:
        """The document of an address below /api/v1, as anybody gets it."""
        with closing(Person(self.url)) as person:
            return person.get(path, **query)

    def login(self, name: str) -> Person:
        return Person(self.url).log_in(name)

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(self._is_listening, f"the page is served: {self._log_path}", every_s=0.05)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _is_listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"edge-agent web ended with {self.process.returncode}:\n{self.log}"
        try:
            return httpx.get(f"{self.url}/", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        assert ends(self.process), f"edge-agent web did not stop on SIGTERM; its log:\n{self.log}"
