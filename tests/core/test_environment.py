import subprocess
import sys

import pytest

from edge_agent.core.environment import library_environment

# In a process of its own, because what lies where in this one's heap is chance.
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


# Whether a block of 100 kB lies on the heap, where what is freed below others is not given back.
_LIES = """
import ctypes, sys
from pathlib import Path
from edge_agent.core.environment import keep_heap_small
if sys.argv[1] == "small":
    keep_heap_small()
blocks = [ctypes.create_string_buffer(100_000) for _ in range(20)]  # more than the free part of the heap
at = ctypes.addressof(blocks[-1])
(heap,) = (line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]"))
first, last = (int(part, 16) for part in heap.split()[0].split("-"))
print(first <= at < last)
"""


@pytest.mark.parametrize(("how", "lies_on_heap"), [("small", "False"), ("as it is", "True")])
def test_large_blocks_are_mapped_one_by_one_and_given_back(how: str, lies_on_heap: str) -> None:
    found = subprocess.run([sys.executable, "-c", _LIES, how], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == lies_on_heap
