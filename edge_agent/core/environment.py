"""What llama.cpp, its OpenMP and numpy read from the environment, once, when they are loaded into a process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform

# How long threads of a step wait awake for each other, about 50 us. Asleep at once they decode 1.2 to 1.6 times slower;
# awake for ever, 2 threads on 2 cores decode 18 times slower once anything else wants a core. A turn of libgomp's loop
# is a `pause` (40 ns) on x86 and a nanosecond elsewhere.
_SPINS = {"x86_64": "1000", "aarch64": "30000"}
# The same of LLVM's OpenMP, which wheels for boards have, in milliseconds. Awake it lets others have its core every now
# and then, so that it may be long; its own 200 ms would be spent after each step.
_BLOCK_MS = "1"


def library_environment() -> dict[str, str]:
    """The variables for a process that is to import llama_cpp; how long threads stay awake, if set, stays."""
    return {
        # Without it ggml forks a debugger at an abort, to print a backtrace.
        "GGML_NO_BACKTRACE": "1",
        # numpy's BLAS would start threads of its own, which nothing here needs.
        "OPENBLAS_NUM_THREADS": "1",
        # Fixed, or glibc raises it to the largest block that was ever freed: a prefix's state of 4 MB, for the disk,
        # left 12 MB of holes behind.
        "MALLOC_MMAP_THRESHOLD_": str(2 * 1024 * 1024),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", _SPINS.get(platform.machine(), _SPINS["x86_64"])),
        "KMP_BLOCKTIME": os.environ.get("KMP_BLOCKTIME", _BLOCK_MS),
    }


def return_freed_memory() -> None:
    """Give the system back what loading a model needed and freed; glibc alone keeps it, other C libraries cannot."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
