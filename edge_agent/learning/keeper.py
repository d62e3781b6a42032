"""Keeps answers of kinds that nothing is fitted to, so that people can correct them.

Each such kind subclasses `Keeper` in a module of its own, and learning.py lists them.
"""

import json
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from edge_agent.core.clock import moment
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.pipe import Finished
from edge_agent.core.strict_json import encode
from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.audited import DAY_S, FORGET_EVERY
from edge_agent.learning.feedback import Mark, find_marked
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task
from edge_agent.status.alarms import Finding


class Keeper:
    """Belongs to the agent's thread."""

    kind: ClassVar[type[TaskBase]]

    def __init__(
        self, config: FeedbackConfig, tasks: Mapping[str, Task], table: AnswerTable, weights_sha256: str
    ) -> None:
        self._table = table
        self._kept_count = 0
        self._weights_sha256 = weights_sha256
        self.reconfigure(config, tasks)

    def set_model(self, weights_sha256: str) -> None:
        self._weights_sha256 = weights_sha256

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        self._config = config
        self._tasks = {name: task for name, task in tasks.items() if isinstance(task.config, self.kind)}

    @abstractmethod
    def keep(self, request: Request, event: Finished, output: Any, wall_s: float, value: Any) -> bool:
        """Keeps an answer; returns whether its caller is asked what is right. `value` is the input if it is kept."""

    @abstractmethod
    def mark(self, task: Task, mark: Mark) -> dict[str, Any]:
        """Takes feedback on an answer; gives the data of the result. Raises CommandError."""

    def findings(self) -> Mapping[str, Finding | None]:
        """The cause of the alarm `accuracy-low`, for each task whose answers can tell."""
        return {}

    def export(self, task: Task, *, after: int, limit: int) -> dict[str, Any] | None:  # noqa: ARG002 - for kinds
        """A page of a task's kept answers, without inputs and ids; None if they measure nothing."""
        return None

    def facts(self) -> Mapping[str, Mapping[str, Any]]:
        """Figures for `health.accuracy`, by task."""
        return {}

    def _store_names(self, task: Task) -> Sequence[str]:
        """The names under which answers of the task are kept."""
        return [task.name]

    def _find(self, task: Task, mark: Mark) -> KeptAnswer:
        """Raises CommandError."""
        return find_marked(self._table, self._config, self._store_names(task), mark)

    def _keep(self, name: str, basis: str, request: Request, wall_s: float, value: Any, **answer: Any) -> None:
        """Keeps the answer under `name`, one of `_store_names`."""
        kept = KeptAnswer(
            id=json.dumps(request.id),
            reply_topic=request.reply_topic,
            wall_s=wall_s,
            machine=request.known_machine,
            input=None if value is None else encode(value),
            **answer,
        )
        self._table.keep(name, basis, kept)
        self._kept_count += 1
        if self._kept_count % FORGET_EVERY == 0:
            assert request.task is not None
            before_s, keep = moment(time.monotonic()).wall_s - self._config.days * DAY_S, self._config.keep
            for each in self._store_names(request.task):
                self._table.forget(each, keep=keep, keep_marked=keep, before_wall_s=before_s)
