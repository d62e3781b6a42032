"""glibc's heap, told to give back what is freed: a daemon's memory is then what it holds, not what it once held."""

from __future__ import annotations

import ctypes

# Of malloc.h. Blocks of this size are mapped one by one and given back whole; glibc alone raises the bound with each
# one that is freed, and tables that grow (of what is remembered, say) leave holes of their former sizes behind.
_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES = -3, 64 * 1024
# Threads share one arena: the agent's allocate little, and each arena keeps holes of its own.
_M_ARENA_MAX, _ARENAS = -8, 1


def keep_heap_small() -> None:
    """For a process whose threads are still to come; other C libraries than glibc need none of it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)
