"""The file that keeps open checks while the page is not running, because a lost one would count as not answered."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_agent.web.answer import Answer, Mark, MarkState
from edge_agent.web.checks import MAX_KEPT_BYTES
from edge_agent.web.kept_file import KeptFile

_KEYS = ("key", "at", "topic", "device", "task", "is_reply_topic", "is_retained", "is_closed")
_MARK_KEYS = ("name", "said", "is_none", "by", "at")
# In the file, a byte of an answer may take six.
_MAX_FILE_BYTES = 7 * MAX_KEPT_BYTES


# A check's key, whether it is closed, and the name of the mark that was sent.
_State = tuple[str, bool, str | None]


class CheckFile:
    """Only the bus thread uses it."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path, "open checks", _MAX_FILE_BYTES)
        self._saved: list[_State] = []
        self._minutes = 0  # How many have passed since then.

    def read(self) -> list[Answer]:
        """The checks of the previous process; none if the file cannot be used.

        Marks that a board had not confirmed are restored as sent, because its result may still come.
        """
        checks = self._file.read(lambda document: [_answer_of(entry) for entry in document["checks"]], list[Answer]())
        self._saved = [_state_of(check, check.mark) for check in checks]
        return checks

    @property
    def written_at(self) -> float | None:
        return self._file.written_at

    def save(self, checks: Iterable[Answer], marks: Iterable[Mark] = (), *, is_last: bool = False) -> None:
        """Must be called each minute. Writes them if they have changed and a minute has passed for each of their MB.

        Thousands of checks, of which some change in each minute, would wear out the SD card of a gateway.
        """
        checks = list(checks)
        sent = {mark.answer.key: mark for mark in marks if mark.state in (MarkState.SENT, MarkState.UNANSWERED)}
        state = [_state_of(check, sent.get(check.key)) for check in checks]
        self._minutes += 1
        min_minutes = sum(len(check.payload) for check in checks) / 1e6
        if state == self._saved or not (is_last or self._minutes >= min_minutes):
            return
        entries = [_entry_of(check, sent.get(check.key)) for check in checks]
        if self._file.save({"checks": entries}):
            self._saved, self._minutes = state, 0


def _state_of(check: Answer, mark: Mark | None) -> _State:
    return check.key, check.is_closed, None if mark is None else mark.name


def _entry_of(check: Answer, mark: Mark | None) -> dict[str, Any]:
    entry = {key: getattr(check, key) for key in _KEYS}
    entry["payload"] = check.payload.decode("utf-8", "surrogateescape")
    if mark is not None:
        entry["mark"] = {key: getattr(mark, key) for key in _MARK_KEYS}
    return entry


def _answer_of(entry: dict[str, Any]) -> Answer:
    payload = entry["payload"].encode("utf-8", "surrogateescape")
    answer = Answer(payload=payload, **{key: entry[key] for key in _KEYS})
    if (mark := entry.get("mark")) is not None:
        given = {key: mark[key] for key in _MARK_KEYS}
        answer.mark = Mark(answer=answer, due_at=0.0, state=MarkState.SENT, sent_at=time.monotonic(), **given)
    return answer
