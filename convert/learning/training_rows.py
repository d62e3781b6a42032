"""Rows: what a model is trained on, and what it is judged on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ..agent import (
    BUILT_IN_TASK,
    TIME_KEYS,
    Task,
    TaskRow,
    compact_json,
    judged_fault,
    shown,
    values_of,
)
from ..errors import ConvertError, escaped
from ..evaluate.requests import read_requests, row_error

MIN_ROWS = 50
_MAX_NAME_LENGTH = 128


@dataclass(frozen=True)
class Row:
    request: TaskRow
    time: float | None  # When it was taken, in seconds or in the file's own numbers; None if it does not say.
    chances: Mapping[str, float] | None = None
    """The chance of each answer by its text, where a teacher gave them; `answer` is the likeliest. None if labelled."""

    @property
    def task(self) -> Task:
        return self.request.task

    @property
    def answer(self) -> Any:
        """The label as the task has it; or the object, its keys in the order of the schema's properties."""
        return self.request.answer

    @cached_property
    def text(self) -> str:
        """The input as the task's template prints it."""
        return self.task.messages(self.request.input)[-1].content

    @cached_property
    def values(self) -> dict[str, Any]:
        """The fields of the input that a model may read; times are none."""
        return {name: value for name, value in values_of(self.text).items() if name not in TIME_KEYS}

    @cached_property
    def answer_text(self) -> str:
        return self.answer if isinstance(self.answer, str) else compact_json(self.answer)


def read_training_rows(path: Path, tasks: dict[str, Task]) -> list[Row]:
    """The labelled rows of a file, in the order of time if they carry one. Raises ConvertError."""
    rows = _read(path, tasks, [], is_labelled=True)
    for name, of_task in by_task(rows).items():
        if of_task[0].task.config.choices and len({row.answer for row in of_task}) < 2:
            raise ConvertError(f"{escaped(str(path))}: task {name} should have at least two different answers")
    return rows


def read_unlabelled(path: Path, tasks: dict[str, Task], labelled: Sequence[Row]) -> list[Row]:
    """As `read_training_rows`, without answers: each input once, and none that a labelled row has."""
    known = {(row.task.name, row.text) for row in labelled}
    rows = {(row.task.name, row.text): row for row in _read(path, tasks, labelled, is_labelled=False)}
    unlabelled = [row for key, row in rows.items() if key not in known]
    if len(unlabelled) < MIN_ROWS:
        rule = f"should have at least {MIN_ROWS} different inputs that no labelled row has"
        raise ConvertError(f"{escaped(str(path))}: {rule} (got {len(unlabelled)})")
    return unlabelled


def _read(path: Path, tasks: dict[str, Task], others: Sequence[Row], *, is_labelled: bool) -> list[Row]:
    """The rows of a file, which carry times if and only if `others` do."""
    tasks = {name: task for name, task in tasks.items() if name != BUILT_IN_TASK}
    rows = list[Row]()
    for request in read_requests(path, tasks, is_labelled=is_labelled).requests:
        row = Row(request, _time(request))
        if fault := _fault(row, ([*others[:1], *rows] or [row])[0], is_labelled=is_labelled):
            raise row_error(request, fault)
        rows.append(row)
    if is_labelled and len(rows) < MIN_ROWS:
        raise ConvertError(f"{escaped(str(path))}: should have at least {MIN_ROWS} rows (got {len(rows)})")
    return sorted(rows, key=lambda row: row.time or 0.0)


def _fault(row: Row, first: Row, *, is_labelled: bool) -> str | None:
    """Why no model can learn the row. first: another row, which carries a time if this one does."""
    fields, config = row.request.fields, row.task.config
    if is_labelled:
        # An object that lacks a field would teach the model to leave it out.
        fault = config.answer_fault(fields["answer"])
    else:
        fault = judged_fault(row.task)
        if "answer" in fields:
            rule = "rows without labels have none; those with one belong in --labelled"
            fault = f"answer: {rule} (got {shown(fields['answer'])})"
    if fault is not None:
        return fault
    if not row.values:
        return "input: should have a field besides the time"
    if odd := [name for name in row.values if len(name) > _MAX_NAME_LENGTH or not name.isprintable()]:
        return f"input: names should be printable, of at most {_MAX_NAME_LENGTH} characters (got {shown(odd[0])})"
    if (row.time is None) != (first.time is None):
        return f"{', '.join(TIME_KEYS)}: all rows should carry a time, or none"
    return None


def by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """In the order of the tasks' first rows."""
    of_task: dict[str, list[Row]] = {}
    for row in rows:
        of_task.setdefault(row.task.name, []).append(row)
    return of_task


def _time(request: TaskRow) -> float | None:
    value = request.fields["input"]
    sources = value | request.fields if isinstance(value, dict) else request.fields
    key = next((key for key in TIME_KEYS if sources.get(key) not in (None, "")), None)
    if key is None:
        return None
    time = sources[key]
    try:
        if isinstance(time, int | float) and not isinstance(time, bool):
            return float(time)
        parsed = datetime.fromisoformat(time)
    except (TypeError, ValueError, OverflowError):
        raise row_error(request, f"{key}: should be a number or a time of ISO 8601 (got {shown(time)})") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
