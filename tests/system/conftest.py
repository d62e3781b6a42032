"""`edge-agent` in this process: as a process of its own it would take a second to begin."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


EdgeAgent = Callable[..., Ended]


@pytest.fixture
def edge_agent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> EdgeAgent:
    """Runs a command that ends by itself; signals stay those of the test."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments: str | Path) -> Ended:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        return Ended(code, *capsys.readouterr())

    return run
