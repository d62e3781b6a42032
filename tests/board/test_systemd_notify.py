import os
import socket
from pathlib import Path

import pytest

from edge_agent.board.systemd_notify import notify, watchdog_interval_s


@pytest.mark.parametrize("address", ["{folder}/notify", "@edge-agent-test-{folder}"])
def test_assignments_arrive_as_lines(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = address.format(folder=tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address.replace("@", "\0"))
        channel.settimeout(5)
        notify("READY=1", "STATUS=online, 0 running")
        assert channel.recv(1000) == b"READY=1\nSTATUS=online, 0 running"


@pytest.mark.parametrize("address", [None, "", "relative", "/nonexistent/notify"])
def test_without_systemd_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("30000000", None, 30.0), ("500000", "own", 0.5), (None, None, None), ("0", None, None), ("x", None, None),
     ("30000000", "1", None)],
)  # fmt: skip
def test_the_watchdog_interval_is_that_of_systemd(
    usec: str | None, pid: str | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval_s() == expected
