"""Rows: what a model is trained on, and what it is judged on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ..agent import (
    BUILT_IN_TASK,
    Task,
    compact_json,
    labelled_csv,
    shown,
    values_of,
)
from ..errors import ConvertError, escaped
from ..evaluate.labelled import JUDGED, check_answer
from ..evaluate.requests import RequestLine, request_of
from ..read.files import json_lines, read_user_file

# Keys that say when a row was taken. The model does not read them.
TIME_KEYS = ("ts", "time", "timestamp")
LEAST_ROWS = 50
_LONGEST_NAME = 128


@dataclass(frozen=True)
class Row:
    """time: when it was taken, in seconds or in the file's own numbers; None = it does not say.

    chances: of each answer, by its text, where a teacher gave them: `answer` is then the likeliest. None = labelled.
    """

    request: RequestLine
    time: float | None
    chances: Mapping[str, float] | None = None

    @property
    def task(self) -> Task:
        return self.request.task

    @cached_property
    def answer(self) -> Any:
        """The label as the task has it; or the object, its keys in the order of the schema's properties."""
        return self.task.config.canonical(self.request.fields["answer"])

    @cached_property
    def text(self) -> str:
        """The input as the task's template prints it."""
        return self.task.messages(self.request.fields["input"])[-1].content

    @cached_property
    def values(self) -> dict[str, Any]:
        """The fields of the input that a model may read."""
        return {name: value for name, value in values_of(self.text).items() if name not in TIME_KEYS}

    @cached_property
    def answer_text(self) -> str:
        """As the model writes it."""
        return self.answer if isinstance(self.answer, str) else compact_json(self.answer)


def read_rows(path: Path, tasks: dict[str, Task]) -> list[Row]:
    """Lines of `{"task": …, "input": …, "answer": …}`, or CSV. With one task, `task` may be missing.

    They are in the order of time, if they carry one. Raises ConvertError.
    """
    rows = _read(path, tasks, [], is_labelled=True)
    for name, of_task in by_task(rows).items():
        if of_task[0].task.config.choices and len({row.answer for row in of_task}) < 2:
            raise ConvertError(f"{escaped(str(path))}: task {name} should have at least two different answers")
    return rows


def read_unlabelled(path: Path, tasks: dict[str, Task], labelled: Sequence[Row]) -> list[Row]:
    """As `read_rows`, without answers: each input once, and none that a labelled row has."""
    known = {(row.task.name, row.text) for row in labelled}
    rows = {(row.task.name, row.text): row for row in _read(path, tasks, labelled, is_labelled=False)}
    found = [row for key, row in rows.items() if key not in known]
    if len(found) < LEAST_ROWS:
        rule = f"should have at least {LEAST_ROWS} different inputs that no labelled row has"
        raise ConvertError(f"{escaped(str(path))}: {rule} (got {len(found)})")
    return found


def _read(path: Path, tasks: dict[str, Task], others: Sequence[Row], *, is_labelled: bool) -> list[Row]:
    """others: rows that carry a time if these do."""
    tasks = {name: task for name, task in tasks.items() if name != BUILT_IN_TASK}
    common = {"task": next(iter(tasks))} if len(tasks) == 1 else {}
    rows = []
    for where, fields in _lines(path, has_answers=is_labelled):
        if not isinstance(fields, dict):
            raise ConvertError(f"{where}: should be an object (got {escaped(compact_json(fields))})")
        if "task" not in common | fields:
            raise ConvertError(f"{where}: task: required, where the configuration has several: {', '.join(tasks)}")
        request = request_of(common | fields, where, tasks)
        if is_labelled:
            check_answer(request)
            _check_complete(request)
        else:
            _check_asked(request)
        rows.append(row := Row(request, _time(request)))
        if not row.values:
            raise request.error("input: should have a field besides the time")
        odd = next((name for name in row.values if len(name) > _LONGEST_NAME or not name.isprintable()), None)
        if odd is not None:
            rule = f"names should be printable, of at most {_LONGEST_NAME} characters"
            raise request.error(f"input: {rule} (got {shown(odd)})")
        if (row.time is None) != ([*others[:1], *rows][0].time is None):
            raise request.error(f"{', '.join(TIME_KEYS)}: all rows should carry a time, or none")
    if is_labelled and len(rows) < LEAST_ROWS:
        raise ConvertError(f"{escaped(str(path))}: should have at least {LEAST_ROWS} rows (got {len(rows)})")
    return sorted(rows, key=lambda row: row.time or 0.0)


def by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """In the order of the tasks' first rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.task.name, []).append(row)
    return found


def _check_complete(request: RequestLine) -> None:
    """Raises ConvertError for an object that lacks a field: the model would learn to leave it out."""
    if fault := request.task.config.answer_fault(request.fields["answer"]):
        raise request.error(fault)


def _check_asked(request: RequestLine) -> None:
    """Raises ConvertError for a row that has an answer, or whose task has answers that no student learns."""
    if "answer" in request.fields:
        rule = "rows without labels have none; those with one belong in --labelled"
        raise request.error(f"answer: {rule} (got {shown(request.fields['answer'])})")
    if not request.task.config.is_judged:
        raise request.error(f"task: {shown(request.task.name)} is of the kind {request.task.config.kind}; {JUDGED}")


def _lines(path: Path, *, has_answers: bool) -> Sequence[tuple[str, Any]]:
    _, text = read_user_file(path)
    if path.suffix.lower() != ".csv":
        return json_lines(text, str(path))
    try:
        return list(labelled_csv(text, escaped(str(path)), ("task", *TIME_KEYS), has_answers=has_answers))
    except ValueError as error:
        raise ConvertError(str(error)) from None


def _time(request: RequestLine) -> float | None:
    value = request.fields["input"]
    beside = value | request.fields if isinstance(value, dict) else request.fields
    key = next((key for key in TIME_KEYS if beside.get(key) not in (None, "")), None)
    if key is None:
        return None
    found = beside[key]
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    try:
        parsed = datetime.fromisoformat(found)
    except (TypeError, ValueError):
        raise request.error(f"{key}: should be a number or a time of ISO 8601 (got {shown(found)})") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
