"""The task that a tool is asked about."""

from edge_agent.core.config import Config
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.wording import shown


class TaskError(Exception):
    """The configuration has no such task; the message lists those that it has."""


def classify_task(config: Config, name: str) -> ClassifyTask:
    """Raises TaskError."""
    table = config.tasks.get(name)
    if isinstance(table, ClassifyTask):
        return table
    kind = "" if table is None else f", of the kind {table.kind}"
    allowed = ", ".join(known for known, table in config.tasks.items() if isinstance(table, ClassifyTask))
    rule = f"should be a task of the kind classify: {allowed or 'none is configured'}"
    raise TaskError(f"TASK: {rule} (got {shown(name)}{kind})")
