"""A server process that is asked with JSON over HTTP, one kept connection per client that asks at once."""

from __future__ import annotations

import http.client
import json
import queue
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.helpers.processes import WAIT_S, wait_until

_START_S = 300.0
_ANSWER_S = 300.0
_CLOSED = (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected)


class HttpServer:
    """Raises AssertionError if the process does not listen in time; its log is kept at `log`."""

    def __init__(self, command: Sequence[str], port: int, *, health: str, log: Path) -> None:
        self._port = port
        self._log = log
        self._connections: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_until(lambda: self._is_healthy(health), f"{command[0]} is ready; see {log}", _START_S)
        except AssertionError:
            self.stop()
            raise

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The document that it answers. Raises ValueError for any status but 200, OSError if it is gone."""
        payload = json.dumps(body)
        try:
            connection = self._connections.get_nowait()
            response, data = _exchange(connection, path, payload)
        except (queue.Empty, *_CLOSED):
            # Servers close a kept connection that was idle for some seconds.
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
            response, data = _exchange(connection, path, payload)
        self._connections.put(connection)
        if response.status != 200:
            raise ValueError(f"{path} gave {response.status}: {data[:500]!r}")
        return json.loads(data)

    def stop(self) -> None:
        while not self._connections.empty():
            self._connections.get().close()
        self.process.terminate()
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _is_healthy(self, path: str) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self._log.read_text()[-2000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _exchange(
    connection: http.client.HTTPConnection, path: str, payload: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request("POST", path, payload, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response, response.read()
