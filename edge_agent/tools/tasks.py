"""The task that a tool is asked about."""

from collections.abc import Sequence

from edge_agent.core.config import Config
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.wording import shown


class TaskError(Exception):
    """The configuration has no such task; the message lists those that it has."""


def classify_task(config: Config, name: str) -> ClassifyTask:
    """Raises TaskError."""
    table = config.tasks.get(name)
    if isinstance(table, ClassifyTask):
        return table
    allowed = [known for known, table in config.tasks.items() if isinstance(table, ClassifyTask)]
    raise _error(config, name, "of the kind classify", allowed)


def task_with_feedback(config: Config, name: str) -> TaskBase:
    """A task of a kind that takes feedback. Raises TaskError."""
    table: TaskBase | None = config.tasks.get(name)
    if table is not None and table.takes_feedback:
        return table
    allowed = [known for known, table in config.tasks.items() if table.takes_feedback]
    raise _error(config, name, "that takes feedback", allowed)


def _error(config: Config, name: str, which: str, allowed: Sequence[str]) -> TaskError:
    kind = f", of the kind {config.tasks[name].kind}" if name in config.tasks else ""
    listed = ", ".join(allowed) or "none is configured"
    return TaskError(f"TASK: should be a task {which}: {listed} (got {shown(name)}{kind})")
