"""Passwords of the broker's accounts, and mosquitto's password file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

# Enough for random passwords.
_ITERATIONS = 1000


def with_passwords(passwords: Mapping[str, str], accounts: Iterable[str]) -> dict[str, str]:
    """The same passwords, and a new one for each account that has none."""
    # 192 bits. A password that begins with "-" would be an option of many programs.
    return {name: f"p{secrets.token_urlsafe(24)}" for name in accounts} | dict(passwords)


def password_file(passwords: Mapping[str, str], text: str) -> str:
    """A password file of mosquitto with these accounts, and with the others in `text`; good lines stay as they are."""
    lines = {line.split(":", 1)[0]: line for line in text.splitlines() if ":" in line}
    for name, password in passwords.items():
        if not _is_of(lines.get(name, ""), password):
            salt = secrets.token_bytes(12)
            words = (_ITERATIONS, *(base64.b64encode(part).decode() for part in (salt, _hash(password, salt))))
            lines[name] = "{}:$7${}${}${}".format(name, *words)
    return "".join(f"{line}\n" for _, line in sorted(lines.items()))


def _is_of(line: str, password: str) -> bool:
    kind, *parts = line.partition(":$")[2].split("$")
    if kind != "7":
        return False
    count, salt, digest = parts
    return hmac.compare_digest(_hash(password, base64.b64decode(salt), int(count)), base64.b64decode(digest))


def _hash(password: str, salt: bytes, count: int = _ITERATIONS) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, count)


class FilterModule:
    """Where Ansible looks for the filters."""

    def filters(self) -> dict[str, Any]:
        return {
            "edge_agent_with_passwords": with_passwords,
            "edge_agent_password_file": password_file,
        }
