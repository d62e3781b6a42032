"""A JSON document in `--data` that outlives the page's process."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.core.files import read_bounded, write_atomically
from edge_agent.core.wording import shown_path

log = logging.getLogger(__name__)
T = TypeVar("T")


class KeptFile:
    """Only one thread may use it.

    Args:
        what: What it holds, for the log.
    """

    def __init__(self, path: Path, what: str, max_bytes: int) -> None:
        self._path, self._what, self._max_bytes = path, what, max_bytes
        self._has_failed = False

    def read(self, parse: Callable[[Any], T], default: T) -> T:
        """What the previous process wrote; the default if the file cannot be used."""
        try:
            return parse(json.loads(read_bounded(self._path, self._max_bytes)))
        except FileNotFoundError:
            return default
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("the %s in %s are lost: %r", self._what, shown_path(self._path), error)
            return default

    @property
    def written_at(self) -> float | None:
        """When it was written, in seconds since 1970; None if there is no file."""
        try:
            return self._path.stat().st_mtime
        except OSError:
            return None

    def save(self, document: object) -> bool:
        """Writes the document; returns whether that worked."""
        try:
            write_atomically(self._path, json.dumps(document).encode(), mode=0o600)
        except OSError as error:
            if not self._has_failed:
                log.warning("the %s cannot be kept in %s: %s", self._what, shown_path(self._path), error.strerror)
            self._has_failed = True
            return False
        self._has_failed = False
        return True
