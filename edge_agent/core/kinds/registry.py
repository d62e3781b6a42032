"""All kinds of task. To add one, write its module here and name it below; CONTRIBUTING.md lists what else it takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.kinds.task import TaskBase

# The task that is there without a table, unless a table disables it.
BUILT_IN_TASK = "generate"

TaskConfig = Annotated[ClassifyTask | ExtractTask | GenerateTask, Field(discriminator="kind")]
KINDS: dict[str, type[TaskBase]] = {"classify": ClassifyTask, "extract": ExtractTask, "generate": GenerateTask}
