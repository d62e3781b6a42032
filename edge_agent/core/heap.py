"""Settings of glibc's heap, so that a daemon holds only the memory it uses, and not what it once used."""

from __future__ import annotations

import ctypes

# From malloc.h. Blocks of this size are mapped one by one and returned whole. Without a fixed threshold glibc raises it
# with each such block that is freed, and tables that grow leave holes of their former sizes.
_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES = -3, 64 * 1024
# Threads share one arena: the agent's threads allocate little, and each arena keeps holes of its own.
_M_ARENA_MAX, _ARENAS = -8, 1


def keep_heap_small() -> None:
    """To be called before the process starts threads; does nothing with another C library than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)
