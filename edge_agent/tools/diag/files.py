"""Facts of files and folders, and small texts of them; what cannot be read says why."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent.board.files import reason


def facts(path: Path) -> dict[str, Any]:
    """Whose a file is, who may read it, its size and age; or why nobody knows."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        return {"fault": reason(error)}
    return {
        "mode": stat.filemode(found.st_mode),
        "owner": _user(found.st_uid),
        "group": _group(found.st_gid),
        "bytes": found.st_size,
        "modified": _when(found.st_mtime),
        "is_readable": os.access(path, os.R_OK),
    }


def listing(folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """All that lies in a folder and below it, with links as what they are; at most so many entries."""
    waiting = [folder]
    count = 0
    while waiting and count < most:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            yield {"path": _below(here, folder), "fault": reason(error)}
            continue
        for entry in entries[: most - count]:
            count += 1
            yield {"path": _below(Path(entry.path), folder), **_entry_facts(entry)}
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
    if waiting:
        yield {"path": "…", "fault": f"more than {most} entries"}


def _entry_facts(entry: os.DirEntry[str]) -> dict[str, Any]:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError as error:
        return {"fault": reason(error)}
    told: dict[str, Any] = {"mode": stat.filemode(found.st_mode), "owner": _user(found.st_uid), "bytes": found.st_size}
    told["modified"] = _when(found.st_mtime)
    if stat.S_ISLNK(found.st_mode):
        told["target"] = str(Path(entry.path).readlink())
    return told


def head(path: Path, most: int) -> str:
    """The first bytes of a file as text. Raises OSError."""
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", "replace").strip("\0\n")


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else "."


def _when(seconds: float) -> str:
    """Not clock.timestamp: a time that cannot be true tells of the clock."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
