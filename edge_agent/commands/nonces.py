"""Nonces of signed commands that were carried out, by this process and those before it: none is carried out twice."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from edge_agent.core import state_files

log = logging.getLogger(__name__)

FILE = "nonces-1"
_MOST = 4096
_DIGEST_BYTES = 16


class Nonces:
    """Digests of the latest, in a file of as many bytes; not by age: a clock that is set back makes old times fresh."""

    def __init__(self, path: Path | None = None) -> None:
        """path: None = in memory only, which is also what is left where the file cannot be read or written."""
        self._path = path
        # The oldest first.
        self._seen: dict[bytes, None] = {}
        self._is_torn = False
        if path is None:
            return
        try:
            known = state_files.read(path) or b""
        except OSError as error:
            log.warning("%s cannot be read, commands of before could be carried out again: %s", path, error)
            return
        whole = [known[at : at + _DIGEST_BYTES] for at in range(0, len(known), _DIGEST_BYTES)]
        self._is_torn = len(known) % _DIGEST_BYTES != 0
        self._seen = dict.fromkeys(whole[:-1] if self._is_torn else whole)

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, nonce: str) -> bool:
        return _digest(nonce) in self._seen

    def add(self, nonce: str) -> None:
        """It is on the disk when this returns."""
        seen = _digest(nonce)
        self._seen[seen] = None
        is_anew = self._is_torn or len(self._seen) > _MOST
        if len(self._seen) > _MOST:
            # Half of them, so that the file is not written anew each time.
            self._seen = dict.fromkeys(list(self._seen)[-_MOST // 2 :])
        if self._path is None:
            return
        try:
            if is_anew or not self._path.exists():
                state_files.replace(self._path, b"".join(self._seen), mode=0o600)
                self._is_torn = False
            else:
                state_files.append(self._path, seen)
        except OSError as error:
            log.warning("%s cannot be written, commands could be carried out again: %s", self._path, error)


def _digest(nonce: str) -> bytes:
    return hashlib.blake2b(nonce.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
