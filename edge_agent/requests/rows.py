"""Rows of a file. Each is an input for a task, usually with its right answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_agent.core.codes import Refusal
from edge_agent.core.envelope import Envelope, Options
from edge_agent.core.kinds.registry import BUILT_IN_TASK, KINDS
from edge_agent.core.labelled import RowsError, read_values
from edge_agent.core.pipe import EngineRequest
from edge_agent.core.wording import printable, shown
from edge_agent.requests.tasks import Task

_MAX_FAULTS = 20


@dataclass(frozen=True)
class TaskRow:
    """A row that its task can answer."""

    where: str  # File and line.
    task: Task
    fields: dict[str, Any]  # Everything in the row.

    @property
    def input(self) -> Any:
        return self.fields["input"]

    @cached_property
    def answer(self) -> Any:
        """The right answer, as a model gives it."""
        return self.task.config.canonical_answer(self.fields["answer"])

    @cached_property
    def _engine_request(self) -> EngineRequest:
        return self.task.build_engine_request(0, Envelope(input=self.input, options=Options(temperature=0.0)))

    def build_engine_request(self, number: int) -> EngineRequest:
        """The request to the worker, for the most probable answer. Raises Refusal."""
        return replace(self._engine_request, id=number)

    @property
    def text(self) -> str:
        """The input as the task's template prints it."""
        return self._engine_request.messages[-1].content


def read_rows(path: Path, tasks: Mapping[str, Task], *, is_labelled: bool) -> list[TaskRow]:
    """Reads lines of `{"task": …, "input": …, "answer": …}`, or CSV; `read_values` says what each column is.

    `task` may be missing where there is one task besides the built-in one. Labelled rows have an answer that their task
    can give. Other keys are kept in `fields`. Raises RowsError, which names up to _MAX_FAULTS faults, each by its first
    row and the number of its rows.
    """
    rows, places = list[TaskRow](), dict[str, list[str]]()
    for where, value in read_values(path, is_labelled=is_labelled):
        try:
            rows.append(_row(where, value, tasks, is_labelled=is_labelled))
        except RowsError as error:
            for fault in error.faults:
                places.setdefault(fault, []).append(where)
    faults = [
        f"{where[0]}: {fault}{f', in {len(where):,} rows' if len(where) > 1 else ''}" for fault, where in places.items()
    ]
    if len(faults) > _MAX_FAULTS:
        faults[_MAX_FAULTS:] = [f"{printable(str(path))}: {len(faults) - _MAX_FAULTS} more faults"]
    if faults or not rows:
        raise RowsError(faults or [f"{printable(str(path))}: has no rows"])
    return rows


def check_required(rows: Iterable[TaskRow]) -> None:
    """Raises RowsError naming the rows that a board with a chat model refuses because a `required` field is missing."""
    faults = []
    for row in rows:
        try:
            row.task.check_required(row.input)
        except Refusal as refused:
            faults.append(f"{row.where}: {refused.error.message}")
    if len(faults) > _MAX_FAULTS:
        faults[_MAX_FAULTS:] = [f"{len(faults) - _MAX_FAULTS} more rows without a required field"]
    if faults:
        raise RowsError(faults)


def judged_fault(task: Task) -> str | None:
    """Why the task's answers are neither right nor wrong."""
    if not task.config.is_text:
        return None
    allowed = ", ".join(name for name, kind in KINDS.items() if not kind.is_text)
    kind = f"{shown(task.name)} is of the kind {task.config.kind}, whose answers are not judged"
    return f"task: {kind}; allowed kinds: {allowed}"


def _row(where: str, value: object, tasks: Mapping[str, Task], *, is_labelled: bool) -> TaskRow:
    """Raises RowsError, which says what is wrong with the value."""
    if not isinstance(value, dict):
        raise RowsError([f"should be an object (got {shown(value)})"])
    usual = [*dict.fromkeys(task.name for task in tasks.values() if task.name != BUILT_IN_TASK)]
    if "task" not in value and len(usual) != 1:
        raise RowsError([f"task: required, because the configuration has several: {', '.join(usual)}"])
    name = value["task"] if "task" in value else usual[0]
    if not isinstance(name, str) or name not in tasks:
        raise RowsError([f"task: should be one of {', '.join(tasks)} (got {shown(name)})"])
    row = TaskRow(where, tasks[name], value)
    missing = [key for key in ("input", "answer")[: 1 + is_labelled] if key not in value]
    if missing:
        raise RowsError([f"{missing[0]}: required, but missing"])
    if not isinstance(row.input, str | dict | list):
        raise RowsError([f"input: should be a string, an object or an array (got {shown(row.input)})"])
    if is_labelled and (fault := judged_fault(row.task) or row.task.config.row_fault(value["answer"])):
        raise RowsError([fault])
    try:
        row.build_engine_request(0)
    except Refusal as refused:
        raise RowsError([refused.error.message]) from refused
    return row
