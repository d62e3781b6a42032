from __future__ import annotations

import subprocess
import sys

import pytest

# Whether a block of 100 kB lies on the heap, where what is freed below others is not given back.
LIES = """
import ctypes, sys
from pathlib import Path
from edge_agent.core.heap import keep_heap_small
if sys.argv[1] == "small":
    keep_heap_small()
at = ctypes.addressof((block := ctypes.create_string_buffer(100_000)))
(heap,) = (line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]"))
first, last = (int(part, 16) for part in heap.split()[0].split("-"))
print(first <= at < last)
"""


@pytest.mark.parametrize(("how", "lies_on_heap"), [("small", "False"), ("as it is", "True")])
def test_large_blocks_are_mapped_one_by_one_and_given_back(how: str, lies_on_heap: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIES, how], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == lies_on_heap
