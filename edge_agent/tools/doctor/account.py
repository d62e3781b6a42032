"""Whose right to read and write counts: the service's, where root asks and there is such an account; else one's own."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = "edge-agent"
_READ, _WRITE, _ENTER = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Account:
    """is_other: it is not who asks, so the system cannot be asked: modes are looked at."""

    name: str
    user: int
    groups: frozenset[int]
    is_other: bool

    def may_read(self, path: Path) -> bool:
        """A file, or all names in a folder. Raises OSError if it is not there."""
        path.stat()
        if not self.is_other:
            return os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
        return self._may(path, _READ | (_ENTER if path.is_dir() else 0)) and self._reaches(path)

    def may_write(self, folder: Path) -> bool:
        """Make files in a folder. Raises OSError if it is not there."""
        folder.stat()
        if not self.is_other:
            return os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        return self._may(folder, _READ | _WRITE | _ENTER) and self._reaches(folder)

    def _reaches(self, path: Path) -> bool:
        return all(self._may(parent, _ENTER) for parent in path.resolve().parents)

    def _may(self, path: Path, wanted: int) -> bool:
        found = path.stat()
        shift = 6 if found.st_uid == self.user else 3 if found.st_gid in self.groups else 0
        return (found.st_mode >> shift) & wanted == wanted


def who_runs() -> Account:
    """Of the service, if root asks; else of who asks."""
    own = os.geteuid()
    if own == 0:
        try:
            entry = pwd.getpwnam(SERVICE_ACCOUNT)
        except KeyError:
            pass
        else:
            groups = {group.gr_gid for group in grp.getgrall() if SERVICE_ACCOUNT in group.gr_mem}
            return Account(SERVICE_ACCOUNT, entry.pw_uid, frozenset({entry.pw_gid, *groups}), is_other=True)
    return Account("this account", own, frozenset(os.getgroups()), is_other=False)
