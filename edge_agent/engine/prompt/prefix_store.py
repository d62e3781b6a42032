"""Decoded prefixes on disk.

A restart then does not decode them again, which takes 16 s for 300 tokens on a Pi 4. llama.cpp restores any bytes that
it is given (CVE-2026-43629). So a file begins with a hash over its state and all facts that the state depends on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_HASH_BYTES = 32


class PrefixStore:
    """One file per prefix: a hash, then the state as llama.cpp gave it. No disk error leaves it.

    key: all that a state depends on but the tokens: model, build, sizes and kinds of the cache.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def load(self, tokens: Sequence[int]) -> bytes | None:
        """The state of these tokens, None = there is none, or it is not as it was written."""
        path = self._path(tokens)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        state = content[_HASH_BYTES:]
        if content[:_HASH_BYTES] == self._hash(tokens, state):
            return state
        log.info("prefix %s was changed or damaged, it is decoded again", path.name)
        return None

    def save(self, tokens: Sequence[int], state: bytes) -> None:
        """Keeps the state of these tokens. It is not synced: a damaged file is only decoded again."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(tokens).write_bytes(self._hash(tokens, state) + state)
        except OSError as error:
            log.info("a prefix is not kept: %s", error)

    def keep_only(self, prefixes: Iterable[Sequence[int]]) -> None:
        """Removes the files of all other prefixes."""
        wanted = {self._path(tokens) for tokens in prefixes}
        try:
            for path in set(self._folder.glob("*.prefix")) - wanted:
                path.unlink()
        except OSError as error:
            log.info("a prefix cannot be removed: %s", error)

    def _path(self, tokens: Sequence[int]) -> Path:
        return self._folder / f"{self._hash(tokens, b'').hex()[:32]}.prefix"

    def _hash(self, tokens: Sequence[int], state: bytes) -> bytes:
        return hashlib.sha256(f"{self._key}\n{list(tokens)}\n".encode() + state).digest()
