"""The database for another process, while the agent has it locked: a copy, with the commits of its WAL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edge_agent.store.database import WAL_SUFFIX, connect

# The rows of a query with these values. Raises STORE_ERRORS.
Select = Callable[..., list[Any]]

_ATTEMPTS = 5
# It changes when the WAL is begun anew.
_WAL_HEADER_BYTES = 32


@contextmanager
def snapshot(path: Path) -> Iterator[Select]:
    """The database as of its last commit, also while the agent runs; takes no lock and writes nothing beside it.

    Until the body ends, a copy is in the folder for temporary files, for its owner alone. Raises STORE_ERRORS.
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as folder:
        copy = Path(folder) / path.name
        for _ in range(_ATTEMPTS):
            before = _generation(path)
            # The file first: what a checkpoint brings into it from now on is in the WAL, too, unless that begins anew.
            shutil.copyfile(path, copy)
            try:
                shutil.copyfile(_wal(path), _wal(copy))
            except FileNotFoundError:  # the agent has stopped
                _wal(copy).unlink(missing_ok=True)
            if _generation(path) == before:
                break
        else:
            raise OSError("the agent writes too much at the moment; try again")
        with closing(connect(copy)) as connection:
            yield lambda statement, *values: connection.execute(statement, values).fetchall()


def _generation(path: Path) -> tuple[object, ...]:
    """While it is the same, file and WAL together have all commits. Raises OSError."""
    try:
        with _wal(path).open("rb") as file:
            header = file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    found = path.stat()
    # Without a WAL the file alone says whether it was written.
    return (found.st_ino, header, None if header else found.st_mtime_ns)


def _wal(path: Path) -> Path:
    return path.with_name(path.name + WAL_SUFFIX)
