"""A user's requests, one JSON object per line, for tasks of an agent's configuration."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..agent import (
    ConfigError,
    Envelope,
    Options,
    Refusal,
    Run,
    Task,
    TemplateInputError,
    load_task_configs,
    render,
    shown,
    with_built_in,
)
from ..errors import ConvertError, escaped
from ..measure.texts import TextDocument, Texts
from ..read.files import check_regular, json_lines, read_user_file


@dataclass(frozen=True, slots=True)
class RequestLine:
    """where: file and line, for messages; fields: everything in the line."""

    where: str
    task: Task
    fields: dict[str, Any]

    def make_run(self, number: int) -> Run:
        """The request to the worker, with the most probable answer. Raises Refusal."""
        return self.task.make_run(number, Envelope(input=self.fields["input"], options=Options(temperature=0.0)))

    def error(self, message: str) -> ConvertError:
        return ConvertError(f"{self.where}: {escaped(message, limit=1000)}")


@dataclass(frozen=True, slots=True)
class Requests:
    """sha256: hex, of the file's content and the definitions of its tasks."""

    sha256: str
    requests: list[RequestLine]

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks of the requests, by name."""
        return {request.task.name: request.task for request in self.requests}


def read_tasks(path: Path) -> dict[str, Task]:
    """The [tasks.NAME] tables of an agent's configuration, or a .json with tasks by name. Raises ConvertError."""
    check_regular(path)
    try:
        return with_built_in(load_task_configs(path))
    except ConfigError as error:
        raise ConvertError(escaped(str(error), limit=2000)) from None


def with_tasks(texts: Texts, tasks: Mapping[str, Task]) -> Texts:
    """Adds chats of the tasks: system message, examples and template; each label, or the schema, as the answer.

    Adds each row as the template of each task renders it, where the row fits.
    """
    documents = list(texts.documents)
    for row, task in product([one.asked for one in documents if one.asked is not None], tasks.values()):
        with suppress(TemplateInputError):
            documents.append(TextDocument(messages=(("user", render(task.config.template, row)),)))
    for task in tasks.values():
        asked = (*((turn.role, turn.content) for turn in task.head), ("user", task.config.template))
        answers = task.config.sample_answers()
        documents += [TextDocument(messages=(*asked, ("assistant", answer))) for answer in answers]
    return replace(texts, documents=documents)


def read_requests(path: Path, tasks: dict[str, Task]) -> Requests:
    """Lines of `{"task": …, "input": …}`; other keys are kept in `fields`. Raises ConvertError."""
    data, text = read_user_file(path)
    found = [request_of(fields, where, tasks) for where, fields in json_lines(text, str(path))]
    if not found:
        raise ConvertError(f"{escaped(str(path))}: holds no requests")
    definitions = [repr(tasks[name]) for name in sorted({request.task.name for request in found})]
    digest = hashlib.sha256(data + "\n".join(definitions).encode())
    return Requests(digest.hexdigest(), found)


def request_of(fields: Any, where: str, tasks: dict[str, Task]) -> RequestLine:
    """Raises ConvertError."""
    match fields:
        case {"task": str(name), "input": str() | dict() | list()} if name in tasks:
            request = RequestLine(where, tasks[name], fields)
        case _:
            allowed = f"input (string, object or array) and task (one of {', '.join(tasks)})"
            raise ConvertError(escaped(f"{where}: should be an object with {allowed}, got {shown(fields)}", limit=1000))
    try:
        request.make_run(0)
    except Refusal as error:
        raise request.error(error.error.message) from None
    return request
