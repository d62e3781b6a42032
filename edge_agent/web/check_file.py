"""The file that keeps open checks while the page is not running; a lost one would count as not answered."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_agent.core.files import read_bounded, write_atomically
from edge_agent.core.wording import shown_path
from edge_agent.web.answers import MAX_OPEN_CHECK_BYTES, Answer

log = logging.getLogger(__name__)

_KEYS = ("key", "at", "topic", "device", "task", "is_reply_topic", "is_retained", "is_closed")
# In the file, a byte of an answer may take six.
_MAX_FILE_BYTES = 7 * MAX_OPEN_CHECK_BYTES


class CheckFile:
    """Only the bus thread uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: list[tuple[str, bool]] = []
        self._has_failed = False

    def read(self) -> list[Answer]:
        """The checks of the previous process; none if the file cannot be used."""
        try:
            document = json.loads(read_bounded(self._path, _MAX_FILE_BYTES))
            checks = [_answer_of(entry) for entry in document["checks"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("the open checks in %s are lost: %r", shown_path(self._path), error)
            return []
        self._saved = _state_of(checks)
        return checks

    def save(self, checks: Iterable[Answer]) -> None:
        """Writes them if they have changed."""
        checks = list(checks)
        if (state := _state_of(checks)) == self._saved:
            return
        entries = [{**{key: getattr(check, key) for key in _KEYS}, "payload": _text(check.payload)} for check in checks]
        try:
            write_atomically(self._path, json.dumps({"checks": entries}).encode(), mode=0o600)
            self._saved, self._has_failed = state, False
        except OSError as error:
            if not self._has_failed:
                log.warning("open checks cannot be kept in %s: %s", shown_path(self._path), error.strerror)
            self._has_failed = True


def _state_of(checks: list[Answer]) -> list[tuple[str, bool]]:
    return [(check.key, check.is_closed) for check in checks]


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "surrogateescape")


def _answer_of(entry: dict[str, Any]) -> Answer:
    payload = entry["payload"].encode("utf-8", "surrogateescape")
    return Answer(payload=payload, **{key: entry[key] for key in _KEYS})
