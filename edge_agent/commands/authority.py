"""Signed commands: where a key is configured, a command needs a fresh HMAC with a nonce that was never used."""

import hashlib
import hmac
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_agent.core.clock import parse_timestamp
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.files import read_if_exists, write_atomically
from edge_agent.core.wording import shown

log = logging.getLogger(__name__)

MAX_AGE_S = 60.0
NONCES_FILE = "nonces-1"
_MAX_NONCES = 1024
_DIGEST_BYTES = 16


def sign(key: bytes, operation: str, fields: dict[str, Any]) -> str:
    """Hex HMAC-SHA-256 over `<operation>\\n` and the canonical JSON of the fields."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.new(key, f"{operation}\n{canonical}".encode(), hashlib.sha256).hexdigest()


class Authority:
    """Checks signatures with `key`; if it is None, commands are not signed.

    Digests of the latest nonces are kept in `nonces_file`, which outlives the process, or in memory alone if it is
    None. They are not dropped by age, because a clock that is set back makes old commands fresh again.
    """

    def __init__(self, key: bytes | None, nonces_file: Path | None = None) -> None:
        self.key = key
        self._nonces_file = nonces_file
        self._used: list[bytes] = []
        try:
            known = (nonces_file and read_if_exists(nonces_file)) or b""
            # Release 0.1.0 appended to the file, so a loss of power may have torn the last digest.
            whole = range(0, len(known) - _DIGEST_BYTES + 1, _DIGEST_BYTES)
            self._used = [known[at : at + _DIGEST_BYTES] for at in whole]
        except OSError as error:
            log.warning("%s cannot be read, earlier commands could be repeated: %s", nonces_file, error)

    def check(self, operation: str, fields: dict[str, Any], now: float) -> None:
        """Compares the command's time with `now`, in seconds since 1970. Raises CommandError(unauthorized)."""
        if self.key is None:
            return
        if not self.key:
            raise CommandError(
                CommandCode.UNAUTHORIZED, "the key file of this board is empty: no command can be signed for it"
            )
        signed = dict(fields)
        given, nonce = _text("hmac", signed.pop("hmac", None)), _text("nonce", signed.get("nonce"))
        ts = parse_timestamp(signed.get("ts"))
        if ts is None or abs(ts - now) > MAX_AGE_S:
            here = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
            allowed = f"should be an RFC 3339 time within {MAX_AGE_S:.0f} s of this board's time, {here}"
            raise CommandError(CommandCode.UNAUTHORIZED, f"ts: {allowed} (got {shown(signed.get('ts'))})")
        if not hmac.compare_digest(given.lower().encode(), sign(self.key, operation, signed).encode()):
            raise CommandError(CommandCode.UNAUTHORIZED, "hmac: does not match the command")
        self._use_up(nonce)

    def _use_up(self, nonce: str) -> None:
        """The nonce is on the disk when this returns, if it can be written. Raises CommandError."""
        digest = hashlib.blake2b(nonce.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        if digest in self._used:
            raise CommandError(CommandCode.UNAUTHORIZED, "nonce: seen before")
        self._used = [*self._used, digest][-_MAX_NONCES:]
        try:
            if self._nonces_file is not None:
                write_atomically(self._nonces_file, b"".join(self._used), mode=0o600)
        except OSError as error:
            log.warning(
                "%s cannot be written, commands could be repeated after a restart: %s", self._nonces_file, error
            )


def _text(name: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    message = f"{name}: should be a non-empty string (got {shown(value)}); this board requires signed commands"
    raise CommandError(CommandCode.UNAUTHORIZED, message)
