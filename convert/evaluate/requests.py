"""A user's requests, with or without their right answers, for tasks of an agent's configuration."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ..agent import (
    ConfigError,
    Task,
    TaskRow,
    TemplateInputError,
    check_required,
    compact_json,
    load_task_configs,
    read_rows,
    render,
    with_built_in,
)
from ..errors import ConvertError, escaped
from ..measure.texts import TextDocument, Texts
from ..read.files import check_regular, user_rows


@dataclass(frozen=True, slots=True)
class Requests:
    sha256: str  # The hash, in hex, of the rows and the definitions of their tasks.
    requests: list[TaskRow]

    @property
    def tasks(self) -> dict[str, Task]:
        return {request.task.name: request.task for request in self.requests}


def read_tasks(path: Path) -> dict[str, Task]:
    """The [tasks.NAME] tables of an agent's configuration, or a .json with tasks by name. Raises ConvertError."""
    check_regular(path)
    try:
        return with_built_in(load_task_configs(path))
    except ConfigError as error:
        raise ConvertError(escaped(str(error), limit=2000)) from None


def with_tasks(texts: Texts, tasks: Mapping[str, Task]) -> Texts:
    """Adds chats of the tasks with each answer that they may give, and each row as the tasks' templates render it."""
    documents = list(texts.documents)
    inputs = [document.row_input for document in documents if document.row_input is not None]
    for row, task in product(inputs, tasks.values()):
        with suppress(TemplateInputError):
            documents.append(TextDocument(messages=(("user", render(task.config.template, row)),)))
    for task in tasks.values():
        asked = (*((turn.role, turn.content) for turn in task.leading_messages), ("user", task.config.template))
        answers = task.config.sample_answers()
        documents += [TextDocument(messages=(*asked, ("assistant", answer))) for answer in answers]
    return replace(texts, documents=documents)


def read_requests(path: Path, tasks: dict[str, Task], *, is_labelled: bool = False) -> Requests:
    """The rows of a file, as `read_rows` reads them. Raises ConvertError."""
    check_regular(path)
    with user_rows():
        rows = read_rows(path, tasks, is_labelled=is_labelled)
    content = [*(compact_json(row.fields) for row in rows), *sorted({repr(row.task) for row in rows})]
    return Requests(hashlib.sha256("\n".join(content).encode()).hexdigest(), rows)


def read_chat_requests(path: Path, tasks: dict[str, Task], *, is_labelled: bool = False) -> Requests:
    """Rows that a board with a chat model would not refuse. Raises ConvertError."""
    requests = read_requests(path, tasks, is_labelled=is_labelled)
    with user_rows():
        check_required(requests.requests)
    return requests


def read_labelled(path: Path, tasks: dict[str, Task]) -> Requests:
    """Rows with answers that their tasks can give. Raises ConvertError."""
    labelled = read_chat_requests(path, tasks, is_labelled=True)
    for row in labelled.requests:
        if row.task.config.has_own_model:
            raise row_error(row, f"task: {row.task.name} has a model of its own, which `edge-convert train` judges")
    return labelled


def row_error(row: TaskRow, message: str) -> ConvertError:
    return ConvertError(f"{row.where}: {escaped(message, limit=1000)}")
