"""Reads the schema files of a configuration file's `[tasks.NAME]` tables, and checks templates and schemas."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core.codes import Refusal
from edge_agent.core.config import Name
from edge_agent.core.config_file import ConfigError, read_document, read_json, table_faults
from edge_agent.core.kinds.registry import BUILT_IN_TASK, KINDS, TaskConfig
from edge_agent.core.kinds.task import MAX_TEMPLATE, TaskBase
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
    """Completes the task tables in place: gives the built-in task its kind, and reads schema files from `folder`.

    Returns those of their faults that the types of core/config cannot express.
    """
    faults: list[str] = []
    tables = raw.get("tasks")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if not isinstance(table, dict):
            continue
        if name == BUILT_IN_TASK and table.setdefault("kind", "generate") != "generate":
            faults.append(f'tasks.{name}.kind: should be "generate" (got {shown(table["kind"])})')
        values = dict(table)
        for key, fault in (*_load_named_files(table, folder), *table_value_faults(table)):
            faults.append(f"{field_name(('tasks', name, key))}: {fault} (got {shown(values[key])})")
    return faults


def example_faults(tasks: Mapping[str, TaskConfig]) -> Iterator[str]:
    """What is wrong with examples, such as an input that the template does not take or an answer never given."""
    for name, config in tasks.items():
        for number, example in enumerate(config.examples):
            key = field_name(("tasks", name, "examples", number))
            if fault := config.answer_fault(example.answer):
                yield f"{key}.{fault} (got {shown(example.answer)})"
            try:
                _ = Task(name, config.model_copy(update={"examples": (example,)})).leading_messages
            except Refusal as refused:
                yield f"{key}.{refused.error.message}"


def table_value_faults(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key of a task table with a value that cannot be used although its type fits, and why."""
    template = table.get("template")
    if isinstance(template, str) and len(template) <= MAX_TEMPLATE and (fault := template_fault(template)):
        yield "template", fault
    if kind := kind_of(table):
        yield from kind.value_faults(table)


def kind_of(table: Mapping[str, Any]) -> type[TaskBase] | None:
    """The kind that a raw table names; None if there is no such kind."""
    return KINDS.get(str(table.get("kind")))


def _load_named_files(table: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Replaces a file's name with the file's content or, if that fails, with an object that causes no further fault."""
    kind = kind_of(table)
    for key in kind.file_keys if kind else ():
        if key not in table or isinstance(table[key], dict):
            continue
        name, table[key] = table[key], {"type": "object"}
        rule = "should be a table, or the name of a JSON file with an object"
        try:
            path = folder / Path(name).expanduser()
            if path.exists() and not path.is_file():  # A pipe would never end.
                raise ConfigError(path, ["is not a file"])
            content = read_json(path)
        except ConfigError as error:
            yield key, f"{rule}; {error}"
        except (TypeError, ValueError, OSError, RuntimeError) as error:  # no text, no path, or no such home folder
            yield key, f"{rule}: {error}"
        else:
            if isinstance(content, dict):
                table[key] = content
            else:
                yield key, rule
