"""Decoded prefixes on disk, so that a restart does not decode them again (16 s for 300 tokens on a Pi 4).

llama.cpp restores any bytes it is given (CVE-2026-43629). So a file is used only if the hash of its state and all facts
that the state depends on are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_SUFFIX = ".prefix"
_SCHEMA = 1


class PrefixStore:
    """One file per prefix: a line of JSON about it, then the state as llama.cpp gave it. No disk error leaves it.

    key: all that a state depends on but the tokens: model, build, sizes and kinds of the cache.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def load(self, tokens: Sequence[int]) -> bytes | None:
        """The state of these tokens, None = there is none, or it is not as it was written."""
        path = self._path(tokens)
        try:
            header, _, state = path.read_bytes().partition(b"\n")
        except OSError:
            return None
        if header != self._header(tokens, state):
            log.info("prefix %s was changed or damaged, it is decoded again", path.name)
            self._remove(path)
            return None
        return state

    def save(self, tokens: Sequence[int], state: bytes) -> None:
        """Keeps the state of these tokens. It is not synced: a damaged file is only decoded again."""
        path = self._path(tokens)
        draft = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(self._header(tokens, state) + b"\n" + state)
            draft.replace(path)
        except OSError as error:
            log.info("prefix %s is not kept: %s", path.name, error)
            self._remove(draft)

    def keep_only(self, prefixes: Iterable[Sequence[int]]) -> None:
        """Removes the files of all other prefixes, and half-written ones."""
        wanted = {self._path(tokens).name for tokens in prefixes}
        for path in self._folder.glob("*"):
            if path.suffix in (_SUFFIX, ".new") and path.name not in wanted:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.info("prefix %s cannot be removed: %s", path.name, error)

    def _path(self, tokens: Sequence[int]) -> Path:
        name = hashlib.sha256(f"{self._key}\n{list(tokens)}".encode()).hexdigest()[:32]
        return self._folder / f"{name}{_SUFFIX}"

    def _header(self, tokens: Sequence[int], state: bytes) -> bytes:
        facts = {
            "schema": _SCHEMA,
            "key": self._key,
            "tokens": list(tokens),
            "bytes": len(state),
            "sha256": hashlib.sha256(state).hexdigest(),
        }
        return json.dumps(facts, sort_keys=True).encode()
