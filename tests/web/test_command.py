"""How `edge-agent web` starts as a process, what it refuses, and how it ends."""

import json
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.web.users import User, hashed_token, write_users
from tests.helpers.certificates import CERTIFICATE, KEY, OTHER_KEY
from tests.helpers.client import Client
from tests.helpers.processes import EDGE_AGENT, EdgeAgent, Mosquitto, ends, free_port, wait_until
from tests.tools.watch import boards

BASE = "edgeai/v1/hall1"


class Web:
    """A page as a process."""

    def __init__(self, folder: Path, broker_port: int, *options: object) -> None:
        self.port = free_port()
        listen = ("--listen", f"127.0.0.1:{self.port}", "--data", str(folder / "data"))
        bus = ("--host", "127.0.0.1", "--port", str(broker_port), "--site", "hall1")
        command = [*EDGE_AGENT, "web", *bus, *listen, *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        assert self.first_line, f"edge-agent web ended: {self.process.communicate()[1]}"
        wait_until(self._is_listening, "the page listens")

    def _is_listening(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self, path: str, scheme: str = "http", **more: Any) -> Any:
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.port}{path}", headers=more.pop("headers", {}))
        with urllib.request.urlopen(request, timeout=10, **more) as response:
            return json.loads(response.read())

    def changes(self) -> Any:
        return self.get("/api/v1/changes")

    def journal(self) -> list[str]:
        return [entry["what"] for entry in self.get("/api/v1/journal")["journal"]]


@contextmanager
def web(folder: Path, broker_port: int, *options: object) -> Iterator[Web]:
    page = Web(folder, broker_port, *options)
    try:
        yield page
    finally:
        ends(page.process)
        page.process.communicate()


def is_online(page: Web) -> bool:
    return bool(page.changes()["order"])


@pytest.mark.mosquitto
@pytest.mark.usefixtures("require_mosquitto")
def test_boards_of_a_real_broker_are_shown_and_a_lost_broker_is_said(tmp_path: Path) -> None:
    port = free_port()
    with web(tmp_path, port) as page:
        wait_until(lambda: page.changes()["broker"]["since"] is not None, "the page misses the broker")
        assert "refused" in page.changes()["broker"]["trouble"]
        with Mosquitto(tmp_path, port), closing(Client(port, "5")) as client:
            client.publish(f"{BASE}/press-04/state", boards.state(), retain=True)
            client.publish(f"{BASE}/press-04/health", boards.health(at=time.time()), retain=True)
            wait_until(lambda: is_online(page), "the board is shown")
            changes = page.changes()
            assert changes["broker"]["is_connected"]
            assert [row["device"] for row in changes["boards"]] == ["press-04"]
        lost = time.monotonic()
        wait_until(lambda: not page.changes()["broker"]["is_connected"], "the page misses the broker", 5.0)
        assert time.monotonic() - lost < 5
        assert page.changes()["order"] == ["press-04"]
        assert page.journal() == ["broker-lost", "broker-back", "broker-lost", "page-started"]
    expected = tmp_path / "expected.txt"
    expected.write_text("press-04\npress-05\n", "utf-8")
    with Mosquitto(tmp_path, port), web(tmp_path, port, "--expect", expected) as page:
        # The board died with a broker that has forgotten it, and the page knows it all the same.
        wait_until(lambda: page.changes()["counts"] == {"missing": 1, "unknown": 1}, "both boards are shown")
        assert page.changes()["order"] == ["press-05", "press-04"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_two_seconds_also_while_browsers_are_connected(tmp_path: Path, number: int) -> None:
    with web(tmp_path, free_port()) as page, socket.create_connection(("127.0.0.1", page.port)) as idle:
        page.changes()
        idle.sendall(b"GET / HTTP/1.1\r\n")
        begin = time.monotonic()
        page.process.send_signal(number)
        assert page.process.wait(10) == 0
        assert time.monotonic() - begin < 2 + 3  # three for a machine that does other things meanwhile
        assert page.process.communicate()[1] == ""


def test_a_connection_that_brings_no_request_is_closed(tmp_path: Path) -> None:
    with web(tmp_path, free_port()) as page:
        silent, slow = (socket.create_connection(("127.0.0.1", page.port)) for _ in range(2))
        with silent, slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            for connection in (silent, slow):
                connection.settimeout(30)
                assert connection.recv(1) == b""


def test_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read(tmp_path: Path) -> None:
    lengths = b"Host: localhost\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
    after = b"0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with web(tmp_path, free_port()) as page, socket.create_connection(("127.0.0.1", page.port)) as connection:
        connection.sendall(b"GET /api/v1/session HTTP/1.1\r\n" + lengths + after)
        connection.settimeout(30)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_what_is_no_http_is_neither_answered_nor_logged(tmp_path: Path) -> None:
    start = b"POST /api/v1/seen HTTP/1.1\r\nHost: localhost\r\nX-Edge-Agent: 1\r\nContent-Type: application/json\r\n"
    with web(tmp_path, free_port()) as page:
        for request in (b"\x16\x03\x01 nonsense\r\n\r\n", start + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"):
            with socket.create_connection(("127.0.0.1", page.port)) as connection:
                connection.sendall(request)
                connection.settimeout(30)
                answer = connection.makefile("rb").read()
            assert not answer or answer.startswith(b"HTTP/1.1 400 ")
        page.process.terminate()
        assert page.process.communicate()[1] == ""


def test_the_journal_of_the_next_process_names_the_time_without_one(tmp_path: Path) -> None:
    with web(tmp_path, free_port()) as page:
        page.process.kill()
        page.process.wait(10)
    with web(tmp_path, free_port()) as page:
        assert "page-was-off" in page.journal()


def test_two_processes_do_not_share_a_journal(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    with web(tmp_path, free_port()):
        bus = ("--host", "127.0.0.1", "--port", free_port(), "--site", "hall1")
        ended = edge_agent("web", *bus, "--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}")
        assert ended.returncode == 1
        assert "--data" in ended.stderr


def test_a_port_that_is_taken_is_said(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = edge_agent("web", "--host", "localhost", "--site", "hall1", "--data", tmp_path, "--listen", listen)
    assert ended.returncode == 1
    assert f"cannot listen on {listen}" in ended.stderr


def test_with_a_certificate_it_speaks_https_alone(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text(CERTIFICATE, "utf-8")
    (tmp_path / "key.pem").write_text(KEY, "utf-8")
    files = ("--web-cert-file", tmp_path / "cert.pem", "--web-key-file", tmp_path / "key.pem")
    with web(tmp_path, free_port(), *files) as page:
        assert page.first_line.startswith("hall1: https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        context.check_hostname = False
        assert page.get("/api/v1/session", "https", context=context)["site"] == "hall1"
        with pytest.raises(OSError):
            page.get("/api/v1/session")


def test_only_the_proxy_connects_and_its_last_address_counts(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    write_users(users, [User(name="p", roles=frozenset(), secret=hashed_token("token"))])
    headers = {"Host": "hall1.example", "Authorization": "Bearer token", "X-Forwarded-For": "10.9.9.9"}
    options = ("--users", users, "--name", "hall1.example", "--behind-proxy")
    with web(tmp_path, free_port(), *options, "127.0.0.1") as page:
        assert page.first_line == "hall1: https://hall1.example/\n"
        assert page.get("/api/v1/session", headers=headers)["user"] == "p"
    with web(tmp_path, free_port(), *options, "10.0.0.7") as page, pytest.raises(urllib.error.HTTPError) as refused:
        page.get("/api/v1/session", headers=headers)
    with refused.value as answer:
        assert answer.code == 403


@pytest.fixture
def refused(edge_agent: EdgeAgent, tmp_path: Path) -> Any:
    def run(*options: object) -> str:
        ended = edge_agent("web", "--host", "localhost", "--site", "hall1", "--data", tmp_path / "data", *options)
        assert ended.returncode == 64, ended
        assert not (tmp_path / "data").exists()
        return ended.stderr

    return run


@pytest.mark.parametrize("listen", ["0.0.0.0:8780", "192.0.2.1:8780", "[::]:8780"])
@pytest.mark.parametrize("protection", ["none", "users", "certificate"])
def test_other_machines_reach_it_only_with_users_and_https(
    refused: Any, tmp_path: Path, listen: str, protection: str
) -> None:
    users, cert = tmp_path / "users.json", tmp_path / "cert.pem"
    write_users(users, [])
    cert.write_text(CERTIFICATE + KEY, "utf-8")
    options = {"none": (), "users": ("--users", users), "certificate": ("--web-cert-file", cert)}[protection]
    words = refused("--listen", listen, *options)
    assert "requires --users, and either --web-cert-file or --behind-proxy" in words


def test_a_proxy_needs_users_even_on_this_machine(refused: Any) -> None:
    assert "--behind-proxy: requires --users" in refused("--behind-proxy", "127.0.0.1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--listen", "8780"), "--listen: should be ADDRESS:PORT"),
        (("--listen", "127.0.0.1:99999"), "--listen: should be ADDRESS:PORT"),
        (("--listen", "hall1.example:8780"), "--listen: should be ADDRESS:PORT"),
        (("--listen", "127.0.0.1:"), "--listen: should be ADDRESS:PORT"),
        (("--listen", "[::1]"), "--listen: should be ADDRESS:PORT"),
        (("--name", "hall1:80"), "--name: should be a host name"),
        (("--name", "https://hall1"), "--name: should be a host name"),
        (("--behind-proxy", "nginx"), "--behind-proxy: should be the proxy's IP address"),
        (("--web-key-file", __file__), "--web-key-file: requires --web-cert-file"),
        (("--web-cert-file", "/nowhere"), "--web-cert-file: should be a file that can be read"),
        (("--users", "/nowhere"), "--users: should be a file that can be read"),
        (("--expect", "/nowhere"), "--expect: /nowhere: "),
        (("--users", __file__), "--users: should be a file that `edge-agent web user add` wrote"),
        (("--public-view",), "--public-view: requires --users"),
        (("user", "list"), "--users: required"),
    ],
)
def test_options_that_cannot_be_used_are_named(refused: Any, options: tuple[str, ...], words: str) -> None:
    assert words in refused(*options)


def test_a_certificate_without_its_key_is_named(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text(CERTIFICATE, "utf-8")
    assert "holds no certificate with its key: --web-key-file" in refused("--web-cert-file", tmp_path / "cert.pem")


def test_a_key_of_another_certificate_is_named(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text(CERTIFICATE, "utf-8")
    (tmp_path / "key.pem").write_text(OTHER_KEY, "utf-8")
    words = refused("--web-cert-file", tmp_path / "cert.pem", "--web-key-file", tmp_path / "key.pem")
    assert "--web-cert-file: cannot be used" in words
