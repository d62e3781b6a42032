"""Labelled rows: what a model learns from, and what it is judged on."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..agent import (
    BUILT_IN_TASK,
    ClassifyTask,
    ExtractTask,
    Task,
    compact_json,
    field_name,
    labelled_csv,
    validator,
)
from ..errors import ConvertError, escaped
from ..evaluate.labelled import check_answer
from ..evaluate.requests import RequestLine, request_of
from ..read.files import json_lines, read_user_file

# Keys that say when a row was taken. The model does not read them.
TIME_KEYS = ("ts", "time", "timestamp")
_LEAST_ROWS = 50


@dataclass(frozen=True)
class Row:
    """time: a number or a text that rises; None = the row has none."""

    request: RequestLine
    time: Any

    @property
    def task(self) -> Task:
        return self.request.task

    @cached_property
    def answer(self) -> Any:
        """The label as the task has it; or the object, its keys in the schema's order."""
        answer, config = self.request.fields["answer"], self.task.config
        if isinstance(config, ClassifyTask):
            same = (label for label in config.labels if _normal(label) == _normal(answer))
            return next(same)
        assert isinstance(config, ExtractTask)
        order = [key for key in config.output_schema.get("properties", {}) if key in answer]
        return {key: answer[key] for key in dict.fromkeys([*order, *answer])}

    @cached_property
    def text(self) -> str:
        """The input as the task's template prints it."""
        return self.task.messages(self.request.fields["input"])[-1].content

    @cached_property
    def answer_text(self) -> str:
        """As the model writes it."""
        return self.answer if isinstance(self.answer, str) else compact_json(self.answer)


def read_rows(path: Path, tasks: dict[str, Task]) -> list[Row]:
    """Lines of `{"task": …, "input": …, "answer": …}`, or CSV. With one task, `task` may be missing.

    They are in the order of time, if all of them carry one. Raises ConvertError.
    """
    configured = [name for name in tasks if name != BUILT_IN_TASK]
    common = {"task": configured[0]} if len(configured) == 1 else {}
    rows = []
    for where, fields in _lines(path):
        if not isinstance(fields, dict):
            raise ConvertError(f"{where}: should be an object (got {escaped(compact_json(fields))})")
        request = request_of(common | fields, where, tasks)
        check_answer(request)
        _check_whole(request)
        rows.append(Row(request, _time(fields)))
    if len(rows) < _LEAST_ROWS:
        raise ConvertError(f"{escaped(str(path))}: should have at least {_LEAST_ROWS} rows (got {len(rows)})")
    for name, task in tasks_of(rows).items():
        if (
            isinstance(task.config, ClassifyTask)
            and len({row.answer_text for row in rows if row.task.name == name}) < 2
        ):
            raise ConvertError(f"{escaped(str(path))}: task {name} should have at least two different answers")
    return sorted(rows, key=lambda row: row.time) if have_time(rows) else rows


def have_time(rows: Iterable[Row]) -> bool:
    """Whether each of them has one, and all of one kind."""
    return {type(row.time) for row in rows} in ({str}, {int}, {float}, {int, float})


def tasks_of(rows: Sequence[Row]) -> dict[str, Task]:
    """By name, in the order of their first rows."""
    return {row.task.name: row.task for row in rows}


def _check_whole(request: RequestLine) -> None:
    """Raises ConvertError for an object that lacks a field: the model would learn to leave it out."""
    if isinstance(request.task.config, ExtractTask):
        checked = validator(request.task.config.output_schema)
        for fault in checked.iter_errors(request.fields["answer"]):
            raise request.error(f"{field_name(('answer', *fault.absolute_path))}: {fault.message}")


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _lines(path: Path) -> Iterable[tuple[str, Any]]:
    _, text = read_user_file(path)
    if path.suffix.lower() != ".csv":
        return json_lines(text, str(path))
    try:
        return list(labelled_csv(text, escaped(str(path)), ("task", *TIME_KEYS)))
    except ValueError as error:
        raise ConvertError(str(error)) from None


def _time(fields: dict[str, Any]) -> Any:
    value = fields["input"]
    beside = fields | value if isinstance(value, dict) else fields
    return next((beside[key] for key in TIME_KEYS if key in beside), None)
