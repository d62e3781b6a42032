"""The file of people and programs that may use the page, and `edge-agent web user`, which writes it."""

import base64
import getpass
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_agent.core.files import atomic_writer, read_bounded, sync_folder
from edge_agent.core.strict_json import parse_json
from edge_agent.core.terminal import aligned, fail
from edge_agent.core.wording import printable, shown, shown_path
from edge_agent.tools.bus import OptionError

log = logging.getLogger(__name__)

ROLES = ("view", "feedback", "try")
MIN_PASSWORD, MAX_PASSWORD = 8, 256
_NAME = re.compile(r"(?=.{1,64}$)[\w.@-]+( [\w.@-]+)*")
_MAX_FILE_BYTES = 1_000_000
# 16 MB and about 50 ms on a PC, 150 ms on a small gateway.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}
_SALT_BYTES, _HASH_BYTES = 16, 32


class UsersError(ValueError):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person with a password or a program with a token. `secret` is a hash of it."""

    name: str
    roles: frozenset[str]
    secret: str

    @property
    def is_program(self) -> bool:
        return self.secret.startswith("sha256:")


def hashed_password(password: str) -> str:
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"scrypt:{_base64(salt)}:{_base64(_scrypt(password, salt))}"


def hashed_token(token: str) -> str:
    """A fast hash, which is enough because tokens are long and random."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


# Hashed for names that do not exist, so that they take as long as others.
_NOBODY = User(name="", roles=frozenset(), secret=f"scrypt:{'A' * 22}==:{'A' * 43}=")


def is_password_of(user: User | None, password: str) -> bool:
    """Whether the password is right. It takes as long to tell for a name that does not exist."""
    _, salt, expected = (user or _NOBODY).secret.split(":")
    given = _scrypt(password, base64.b64decode(salt))
    return hmac.compare_digest(given, base64.b64decode(expected)) and user is not None


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, dklen=_HASH_BYTES, **_SCRYPT)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def read_users(path: Path) -> dict[str, User]:
    """Raises UsersError, OSError."""
    try:
        document = parse_json(read_bounded(path, _MAX_FILE_BYTES).decode("utf-8"))
        return {name: _user_of(name, entry) for name, entry in document["users"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsersError("should be a file that `edge-agent web user add` wrote") from error


def _user_of(name: str, entry: dict[str, Any]) -> User:
    user = User(name=name, roles=frozenset(entry["roles"]) | {"view"}, secret=entry["secret"])
    kind, *parts = user.secret.split(":")
    is_scrypt = kind == "scrypt" and len(parts) == 2 and len(base64.b64decode(parts[1])) == _HASH_BYTES
    is_token = kind == "sha256" and len(parts) == 1 and len(bytes.fromhex(parts[0])) == 32
    if not (is_scrypt or is_token) or not user.roles <= {*ROLES} or not _NAME.fullmatch(name):
        raise ValueError(name)
    return user


def write_users(path: Path, users: Iterable[User]) -> None:
    """Writes the file. One that exists keeps owner and mode, so that a service can still read it. Raises OSError."""
    document = {"users": {user.name: {"roles": sorted(user.roles), "secret": user.secret} for user in users}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path, mode=0o600) as file:
        if path.exists():
            before = path.stat()
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
        file.write((json.dumps(document, indent=2) + "\n").encode())
    sync_folder(path.parent)


class Users:
    """The users in the file, which is read again when it changes. While it cannot be read, there are none."""

    def __init__(self, path: Path) -> None:
        """Raises UsersError, OSError."""
        self._path = path
        self._seen = self._stamp()
        self._users = read_users(path)
        self._is_readable = True

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            now = self._path.stat()
        except OSError:
            return None
        # The last also changes with the owner and the mode.
        return (now.st_mtime_ns, now.st_size, now.st_ino, now.st_ctime_ns)

    @property
    def are_readable(self) -> bool:
        self._current()
        return self._is_readable

    def _current(self) -> dict[str, User]:
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._users, self._is_readable = read_users(self._path), True
            except (OSError, UsersError) as error:
                self._users, self._is_readable = {}, False
                log.warning("nobody may log in: %s cannot be read: %s", shown_path(self._path), error)
        return self._users

    def named(self, name: str) -> User | None:
        return self._current().get(name)

    def person(self, name: str) -> User | None:
        """A user who may log in with a password."""
        user = self.named(name)
        return None if user is None or user.is_program else user

    def with_token(self, token: str) -> User | None:
        given = hashed_token(token)
        programs = [user for user in self._current().values() if user.is_program]
        return next((user for user in programs if hmac.compare_digest(user.secret, given)), None)


def change_users(
    action: str | None, name: str | None, path: Path | None, roles: list[str], *, is_program: bool, force: bool
) -> int:
    """`edge-agent web user`. Returns the exit code. Raises OptionError."""
    if path is None:
        raise OptionError("--users: required, the file to read or change")
    if action is None or (action == "list") == (name is not None):
        raise OptionError("should be `user add NAME`, `user roles NAME`, `user remove NAME` or `user list`")
    if name is not None and not _NAME.fullmatch(name):
        raise OptionError(
            f"NAME: should be 1 to 64 letters, digits, _, -, . or @, with single spaces inside (got {shown(name)})"
        )
    try:
        users = read_users(path) if path.exists() or action != "add" else {}
        if name is None:
            _print(users.values())
            return 0
        if action == "remove":
            if users.pop(name, None) is None:
                return fail(f"{shown_path(path)} has no user {printable(name)}")
        elif action == "roles":
            if name not in users:
                return fail(f"{shown_path(path)} has no user {printable(name)}")
            users[name] = replace(users[name], roles=frozenset(roles) | {"view"})
        else:
            if name in users and not force:
                return fail(f"{printable(name)} already exists: --force replaces the password or token, and the roles")
            user = User(name=name, roles=frozenset(roles) | {"view"}, secret="")
            token = secrets.token_urlsafe(32)
            secret = hashed_token(token) if is_program else hashed_password(_asked_password())
            users[name] = replace(user, secret=secret)
        write_users(path, users.values())
    except (UsersError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return fail(f"{shown_path(path)}: {reason}")
    if action == "add" and is_program:
        print(token)
    elif action is not None:
        print(f"{printable(name or '')} {'may not' if action == 'remove' else 'may'} use the page: {shown_path(path)}")
    return 0


def _asked_password() -> str:
    """Asks for it twice at a terminal, or reads the first line of standard input. Raises OptionError."""
    if sys.stdin.isatty():
        password = getpass.getpass("password: ")
        if getpass.getpass("again: ") != password:
            raise OptionError("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise OptionError(f"a password should have {MIN_PASSWORD} to {MAX_PASSWORD} characters (got {len(password)})")
    return password


def _print(users: Iterable[User]) -> None:
    rows = [
        (user.name, "token" if user.is_program else "password", " ".join(role for role in ROLES if role in user.roles))
        for user in users
    ]
    for line in aligned([("USER", "LOGS IN WITH", "ROLES"), *rows], left=3):
        print(printable(line))
