from __future__ import annotations

import subprocess
import sys

import pytest

from edge_agent.core.environment import library_environment, return_freed_memory

# A process of its own, for what lies where in this one's heap is chance.
_FREES_40_MB = """
import os, pathlib
from edge_agent.core.environment import return_freed_memory
blocks = [bytearray(2000) for _ in range(20_000)]
stays = bytearray(2000)  # on top of the heap: the C library does not shrink it by itself
blocks.clear()
resident = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_operator_sets_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name, raising=False)
    own = library_environment()[name]
    monkeypatch.setenv(name, own + "7")

    assert library_environment()[name] == own + "7"


def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    found = subprocess.run([sys.executable, "-c", _FREES_40_MB], capture_output=True, text=True, check=True)

    assert int(found.stdout) > 20_000_000


def test_a_c_library_that_cannot_give_memory_back_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.core.environment.ctypes.CDLL", lambda _: object())

    return_freed_memory()
