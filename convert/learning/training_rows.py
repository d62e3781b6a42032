"""The rows that a model is trained on, and those that it is judged on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ..agent import (
    BUILT_IN_TASK,
    GROUP_KEY,
    MACHINE_KEY,
    MAX_NUMBER,
    ROW_KEYS,
    TIME_KEYS,
    Task,
    TaskRow,
    compact_json,
    judged_fault,
    number_of,
    shown,
    value_text,
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
    group: str | None = None
    """The rows of a group, such as an episode or a day, are alike, so they are learnt or judged together."""
    is_selection: bool = False
    """Whether it is there because somebody noticed it, so that it says nothing about how frequent such rows are."""

    @property
    def task(self) -> Task:
        return self.request.task

    @property
    def answer(self) -> Any:
        """The label as the task has it; or the object, its keys in the order of the schema's properties."""
        return self.request.answer

    @property
    def text(self) -> str:
        """The input as the task's template prints it."""
        return self.request.text

    @cached_property
    def values(self) -> dict[str, Any]:
        """The fields of the input that a model may read."""
        return {name: value for name, value in values_of(self.text).items() if name not in ROW_KEYS}

    @cached_property
    def identity(self) -> str:
        """The same for inputs that a model reads alike, whatever the order of keys and the spelling of numbers."""
        return compact_json(sorted((name, value_text(value)) for name, value in self.values.items()))

    @property
    def file(self) -> str:
        return self.request.where.rpartition(":")[0]

    @cached_property
    def machine(self) -> str | None:
        """The machine that it is from; None if it does not say."""
        return _text_of(self.request, MACHINE_KEY)

    @cached_property
    def time_text(self) -> str | None:
        """The time as the file has it."""
        return next((text for key in TIME_KEYS if (text := _text_of(self.request, key)) is not None), None)

    @cached_property
    def answer_text(self) -> str:
        return self.answer if isinstance(self.answer, str) else compact_json(self.answer)


def read_training_rows(paths: Sequence[Path], tasks: dict[str, Task]) -> tuple[list[Row], list[str]]:
    """The labelled rows of the files, in the order of time if any has one; and notes on them. Raises ConvertError."""
    rows, repeated, notes = read_labelled(paths, tasks)
    where = ", ".join(escaped(str(path)) for path in paths)
    if len(rows) < MIN_ROWS:
        raise ConvertError(f"{where}: should have at least {MIN_ROWS} rows (got {len(rows)})")
    for name, of_task in by_task(rows).items():
        if (config := of_task[0].task.config).has_own_model:
            hint = "train it by itself, or make a task of the kind classify from its rows with --classify"
            raise ConvertError(f"{where}: task {name} is of the kind {config.kind}: {hint}")
        if of_task[0].task.config.canary_part == "scores" and len({row.answer for row in of_task}) < 2:
            raise ConvertError(f"{where}: task {name} should have at least two different answers")
    if repeated:
        notes.insert(0, f"{repeated} rows are repeats and are left out")
    timeless = sum(row.time is None for row in rows)
    if 0 < timeless < len(rows):
        notes.append(f"{timeless} of {len(rows)} rows have no time and count as the oldest")
    return in_order_of_time(rows), notes


def read_labelled(paths: Sequence[Path], tasks: Mapping[str, Task]) -> tuple[list[Row], int, list[str]]:
    """The labelled rows of the files, how many were left out as repeats, and notes on others. Raises ConvertError.

    Of the rows of a reading, which a time identifies, the last one counts, because people correct their answers. A row
    without a time counts once if two files have it, because one file may have equal readings. What counts keeps the
    group that an earlier row names.
    """
    first_in, rows, repeated, corrected = dict[tuple[object, ...], tuple[Path, int]](), list[Row](), 0, 0
    for path in paths:
        for row in read_rows(path, tasks, is_labelled=True):
            # --classify reads the rows of two tasks as those of one.
            task = row.request.fields.get("task") or row.task.name
            reading = (row.group, row.answer_text) if row.time is None else (row.time, row.machine)
            first_path, place = first_in.setdefault((task, row.identity, *reading), (path, len(rows)))
            if place == len(rows) or (row.time is None and first_path == path):
                rows.append(row)
            else:
                repeated += row.answer_text == rows[place].answer_text
                corrected += row.answer_text != rows[place].answer_text
                rows[place] = replace(row, group=rows[place].group or row.group)
    note = f"{corrected} rows are left out, because a later row of the same reading has another answer"
    return rows, repeated, [note] if corrected else []


def read_unlabelled(paths: Sequence[Path], tasks: dict[str, Task], labelled: Sequence[Row]) -> list[Row]:
    """The rows of files without answers: each input once, and none that a labelled row has. Raises ConvertError."""
    known = {(row.task.name, row.identity) for row in labelled}
    read = [row for path in paths for row in read_rows(path, tasks, is_labelled=False)]
    rows = {(row.task.name, row.identity): row for row in in_order_of_time(read)}
    unlabelled = [row for key, row in rows.items() if key not in known]
    if len(unlabelled) < MIN_ROWS:
        rule = f"should have at least {MIN_ROWS} different inputs that no labelled row has"
        where = ", ".join(escaped(str(path)) for path in paths)
        raise ConvertError(f"{where}: {rule} (got {len(unlabelled)})")
    return unlabelled


def in_order_of_time(rows: Sequence[Row]) -> list[Row]:
    """The oldest first. If some rows have a time, the others get one before all of these, and keep their order."""
    times = [row.time for row in rows if row.time is not None]
    if not times:
        return list(rows)
    timed = [replace(row, time=min(times) - 1) if row.time is None else row for row in rows]
    return sorted(timed, key=lambda row: row.time or 0.0)


def read_rows(path: Path, tasks: Mapping[str, Task], *, is_labelled: bool) -> list[Row]:
    """The rows in the order of the file. Raises ConvertError."""
    tasks = {name: task for name, task in tasks.items() if name != BUILT_IN_TASK}
    rows = list[Row]()
    for request in read_requests(path, tasks, is_labelled=is_labelled).requests:
        row = Row(request, _time(request), group=_text_of(request, GROUP_KEY))
        if fault := _fault(row, is_labelled=is_labelled):
            raise row_error(request, fault)
        rows.append(row)
    return rows


def _fault(row: Row, *, is_labelled: bool) -> str | None:
    """Why no model can learn the row."""
    fields, config = row.request.fields, row.task.config
    if is_labelled:
        # An object that lacks a field would teach the model to leave it out.
        fault = config.answer_fault(fields["answer"])
    else:
        fault = judged_fault(row.task)
        if config.is_number:
            fault = f"task: {row.task.name} is of the kind {config.kind}, and no teacher answers with a number"
        if "answer" in fields:
            rule = "rows without labels have none; those with one belong in --labelled"
            fault = f"answer: {rule} (got {shown(fields['answer'])})"
    if fault is not None:
        return fault
    if not row.values:
        return f"input: should have a field besides {', '.join(ROW_KEYS)}"
    if odd := [name for name in row.values if len(name) > _MAX_NAME_LENGTH or not name.isprintable()]:
        return f"input: names should be printable, of at most {_MAX_NAME_LENGTH} characters (got {shown(odd[0])})"
    if huge := [value for value in row.values.values() if abs(number_of(value) or 0) > MAX_NUMBER]:
        return f"input: numbers should be from -{MAX_NUMBER:g} to {MAX_NUMBER:g} (got {shown(huge[0])})"
    return None


def by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each task, in the order of the tasks' first rows."""
    of_task: dict[str, list[Row]] = {}
    for row in rows:
        of_task.setdefault(row.task.name, []).append(row)
    return of_task


def _text_of(request: TaskRow, key: str) -> str | None:
    """The value of a key that belongs to the row, as text; None if it has none."""
    value = _sources(request).get(key)
    if value in (None, ""):
        return None
    return value if isinstance(value, str) else compact_json(value)


def _sources(request: TaskRow) -> dict[str, Any]:
    """Where keys that belong to the row may stand: beside its input, or in it."""
    value = request.fields["input"]
    return value | request.fields if isinstance(value, dict) else request.fields


def _time(request: TaskRow) -> float | None:
    sources = _sources(request)
    key = next((key for key in TIME_KEYS if sources.get(key) not in (None, "")), None)
    if key is None:
        return None
    time = sources[key]
    try:
        if isinstance(time, int | float) and not isinstance(time, bool):
            return float(time)
        parsed = datetime.fromisoformat(time)
    except (TypeError, ValueError, OverflowError):
        rule = "should be a number or a time of ISO 8601, such as 2026-11-02T06:00:00Z"
        raise row_error(request, f"{key}: {rule} (got {shown(time)})") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
