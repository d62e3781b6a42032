"""Run by a board's Python: `counting.py MODEL.gguf…` prints the instructions of steps of one thread, a JSON line each.

The core counts them, without the kernel's. Needs only the installed edge-agent, and root.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import struct
import sys

from edge_agent.engine.llama import ContextSizes, Llama
from edge_agent.engine.step.calibration import steps_of

ROWS = (1, 4, 32)
_REPEATS = 3
_SIZES = ContextSizes(context_tokens=512, batch_tokens=64, sequences=6, outputs=6)
# linux/perf_event.h: the first version of the attributes; hardware event 1; neither kernel nor hypervisor.
_ATTRIBUTES = struct.pack("=IIQQQQQIIQ", 0, 64, 1, 0, 0, 0, 1 << 5 | 1 << 6, 0, 0, 0)
_PERF_EVENT_OPEN = {"aarch64": 241, "x86_64": 298}


class InstructionCounter:
    """Counts the instructions of this thread. Raises OSError if the core or the kernel cannot count."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._file = library.syscall(_PERF_EVENT_OPEN[os.uname().machine], _ATTRIBUTES, 0, -1, -1, 0)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def count(self) -> int:
        return int.from_bytes(os.read(self._file, 8), sys.byteorder)


def main() -> int:
    counter = InstructionCounter()
    for path in sys.argv[1:]:
        llama = Llama(path, _SIZES)
        step = steps_of(llama, range(4), 4)
        counts = {}
        for rows in ROWS:
            taken = []
            for _ in range(1 + _REPEATS):
                before = counter.count()
                step(rows, 1, 1)
                taken.append(counter.count() - before)
            # The first step allocates memory.
            counts[rows] = statistics.median(taken[1:])
        print(json.dumps({"model": path, "variant": llama.cpu_variant, "instructions": counts}), flush=True)
        llama.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
