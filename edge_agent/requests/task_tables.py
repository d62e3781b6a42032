"""The `[tasks.NAME]` tables of a configuration file: schema files are read, templates and schemas are checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core.codes import Refusal
from edge_agent.core.config import (
    BUILT_IN_TASK,
    MAX_TEMPLATE,
    ClassifyTask,
    ExtractTask,
    GenerateTask,
    Name,
    TaskConfig,
)
from edge_agent.core.config_file import ConfigError, read_document, read_json, table_faults
from edge_agent.core.schemas import check_schema, validator
from edge_agent.core.wording import field_name, shown
from edge_agent.requests.tasks import Task
from edge_agent.requests.templates import template_fault


class _Tasks(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]


def load_task_configs(path: Path) -> dict[str, TaskConfig]:
    """The `[tasks.NAME]` tables of a configuration, whatever else it holds; a `.json` file holds them by name.

    Raises ConfigError naming every fault.
    """
    raw = {"tasks": read_json(path)} if path.suffix == ".json" else read_document(path)
    folder = path.absolute().parent
    faults = prepare_tasks(raw, folder)
    try:
        tasks = _Tasks.model_validate(raw, context={"folder": folder}).tasks
    except ValidationError as error:
        faults += table_faults(error, raw)
    else:
        faults += example_faults(tasks)
    if faults:
        raise ConfigError(path, faults)
    return tasks


def prepare_tasks(raw: dict[str, Any], folder: Path) -> list[str]:
    """Completes the task tables in place: the built-in task gets its kind, schema files are read from `folder`.

    Returns what is wrong with them and what the types of core/config cannot say.
    """
    faults: list[str] = []
    tables = raw.get("tasks")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if not isinstance(table, dict):
            continue
        if name == BUILT_IN_TASK and table.setdefault("kind", "generate") != "generate":
            faults.append(f'tasks.{name}.kind: should be "generate" (got {shown(table["kind"])})')
        given = table.get("schema")
        found = [*_schema_file_faults(table, folder), *text_faults(table)]
        values = {**table, "schema": given}
        faults += [f"{field_name(('tasks', name, key))}: {fault} (got {shown(values[key])})" for key, fault in found]
    return faults


def example_faults(tasks: Mapping[str, TaskConfig]) -> Iterator[str]:
    """What is wrong with examples: an input that the template does not take, an answer that the task never gives."""
    for name, config in tasks.items():
        for number, example in enumerate(config.examples):
            key = field_name(("tasks", name, "examples", number))
            if fault := _answer_fault(config, example.answer):
                yield f"{key}.{fault} (got {shown(example.answer)})"
            try:
                _ = Task(name, config.model_copy(update={"examples": (example,)})).head
            except Refusal as refused:
                yield f"{key}.{refused.error.message}"


def _answer_fault(config: TaskConfig, answer: str | dict[str, Any]) -> str | None:
    match config:
        case ClassifyTask(labels=labels) if answer not in labels:
            return f"answer: should be one of {', '.join(labels)}"
        case ExtractTask(output_schema=schema):
            error = next(validator(schema).iter_errors(answer), None)
            return None if error is None else f"{field_name(('answer', *error.absolute_path))}: {error.message}"
        case GenerateTask() if not isinstance(answer, str):
            return "answer: should be a text"
    return None


def text_faults(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key of a task table whose template or schema cannot be used, and why."""
    template, schema = table.get("template"), table.get("schema")
    if isinstance(template, str) and len(template) <= MAX_TEMPLATE and (fault := template_fault(template)):
        yield "template", fault
    if table.get("kind") == "extract" and isinstance(schema, dict) and (fault := check_schema(schema)):
        yield "schema", fault


def _schema_file_faults(table: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Puts the content of a schema's file in the place of its name; a permissive schema where that fails."""
    if table.get("kind") != "extract" or "schema" not in table or isinstance(table["schema"], dict):
        return
    name, table["schema"] = table["schema"], {"type": "object"}
    rule = "should be a table, or name a JSON file that holds an object"
    try:
        path = folder / Path(name).expanduser()
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ConfigError(path, ["is no file"])
        schema = read_json(path)
    except ConfigError as error:
        yield "schema", f"{rule}; {error}"
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # no text, no path, or no such home folder
        yield "schema", f"{rule}: {error}"
    else:
        if isinstance(schema, dict):
            table["schema"] = schema
        else:
            yield "schema", rule
