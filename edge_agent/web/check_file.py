"""The file that keeps open checks while the page is not running; a lost one would count as not answered."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_agent.web.answer import Answer
from edge_agent.web.checks import MAX_KEPT_BYTES
from edge_agent.web.kept_file import KeptFile

_KEYS = ("key", "at", "topic", "device", "task", "is_reply_topic", "is_retained", "is_closed")
# In the file, a byte of an answer may take six.
_MAX_FILE_BYTES = 7 * MAX_KEPT_BYTES


class CheckFile:
    """Only the bus thread uses it."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path, "open checks", _MAX_FILE_BYTES)
        self._saved: list[tuple[str, bool]] = []
        self._minutes = 0  # Since then.

    def read(self) -> list[Answer]:
        """The checks of the previous process; none if the file cannot be used."""
        checks = self._file.read(lambda document: [_answer_of(entry) for entry in document["checks"]], list[Answer]())
        self._saved = _state_of(checks)
        return checks

    @property
    def written_at(self) -> float | None:
        return self._file.written_at

    def save(self, checks: Iterable[Answer], *, is_last: bool = False) -> None:
        """To be called each minute. Writes them if they have changed and a minute has passed for each of their MB.

        Thousands of checks, of which some change in each minute, would wear out the SD card of a gateway.
        """
        checks = list(checks)
        self._minutes += 1
        min_minutes = sum(len(check.payload) for check in checks) / 1e6
        if (state := _state_of(checks)) == self._saved or not (is_last or self._minutes >= min_minutes):
            return
        entries = [{**{key: getattr(check, key) for key in _KEYS}, "payload": _text(check.payload)} for check in checks]
        if self._file.save({"checks": entries}):
            self._saved, self._minutes = state, 0


def _state_of(checks: list[Answer]) -> list[tuple[str, bool]]:
    return [(check.key, check.is_closed) for check in checks]


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "surrogateescape")


def _answer_of(entry: dict[str, Any]) -> Answer:
    payload = entry["payload"].encode("utf-8", "surrogateescape")
    return Answer(payload=payload, **{key: entry[key] for key in _KEYS})
