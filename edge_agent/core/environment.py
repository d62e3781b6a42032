"""The cores of a process, and settings of the C libraries.

These are variables for llama.cpp, its OpenMP and numpy, and how glibc's heap keeps memory.
"""

import ctypes
import gc
import os
import platform
import sys

# Threads of a step spin about 50 us while they wait for each other. Without that, decoding is 1.2 to 1.6 times slower.
# With endless spinning, 2 threads on 2 cores decode 18 times slower as soon as another process wants a core. A turn of
# libgomp's loop takes 40 ns on x86 (`pause`) and 1 ns elsewhere.
_SPINS = {"x86_64": "1000", "aarch64": "30000"}
# The same for LLVM's OpenMP in the wheels for boards, in milliseconds. It yields its core while it spins, so the time
# may be longer, but its default of 200 ms would follow each step.
_BLOCK_MS = "1"
# From malloc.h. Blocks of this size are mapped one by one and returned whole. Without a fixed threshold glibc raises it
# with each such block that is freed, and tables that grow leave holes of their former sizes.
_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES = -3, 64 * 1024
# Threads share one arena: the agent's threads allocate little, and each arena keeps holes of its own.
_M_ARENA_MAX, _ARENAS = -8, 1


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def child_environment() -> dict[str, str]:
    """The variables for a child process of ours, so that it can import what this one can from any working directory."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def library_environment() -> dict[str, str]:
    """The variables for a process that imports llama_cpp; spin times that are set already are kept."""
    return {
        # Otherwise ggml forks a debugger at an abort, to print a backtrace.
        "GGML_NO_BACKTRACE": "1",
        # Otherwise numpy's BLAS starts threads that nothing here needs.
        "OPENBLAS_NUM_THREADS": "1",
        # Otherwise glibc raises it to the largest block that was ever freed. A prefix's state of 4 MB left holes of
        # 12 MB in the heap.
        "MALLOC_MMAP_THRESHOLD_": str(2 * 1024 * 1024),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", _SPINS.get(platform.machine(), _SPINS["x86_64"])),
        "KMP_BLOCKTIME": os.environ.get("KMP_BLOCKTIME", _BLOCK_MS),
    }


def keep_heap_small() -> None:
    """Makes the process hold only the memory it uses, not what it once used. To be called before it starts threads."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
    libc.mallopt(_M_ARENA_MAX, _ARENAS)


def return_freed_memory() -> None:
    """Returns freed memory, which glibc would keep, to the system, for example after a load."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
