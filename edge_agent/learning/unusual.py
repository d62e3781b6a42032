"""Keeps readings of `unusual` tasks, so that people can say what they were. Unusual ones are always asked about.

Belongs to the agent's thread. Nothing is computed from the answers here: `edge-agent rows` makes rows of them.
"""

import json
import time
from typing import Any

from edge_agent.core.clock import moment
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.unusual import USUAL, UnusualTask
from edge_agent.core.strict_json import encode
from edge_agent.core.wording import shown
from edge_agent.learning.answers import AnswerTable, KeptAnswer, student_store_name
from edge_agent.learning.audited import DAY_S, FORGET_EVERY
from edge_agent.learning.feedback import Mark, find_marked
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task

_UNUSUAL = "unusual"


class UnusualReadings:
    def __init__(self, config: FeedbackConfig, table: AnswerTable) -> None:
        self._config = config
        self._table = table
        self._kept_count = 0

    def reconfigure(self, config: FeedbackConfig) -> None:
        self._config = config

    def keep(self, request: Request, output: dict[str, Any], wall_s: float, value: Any) -> bool:
        """Keeps a reading; returns whether its caller may be asked what it was. value: the input, None if not kept."""
        assert request.task is not None
        if not self._config.enabled:
            return False
        is_unusual = bool(output["unusual"])
        kept_as = _UNUSUAL if is_unusual else USUAL
        answer = KeptAnswer(
            id=json.dumps(request.id),
            reply_topic=request.reply_topic,
            wall_s=wall_s,
            scores={},
            tokens=0,
            is_audit=is_unusual,
            input=None if value is None else encode(value),
            output=kept_as,
        )
        self._table.keep(_store_name(request.task.name, kept_as), request.task.definition, answer)
        self._kept_count += 1
        if self._kept_count % FORGET_EVERY == 0:
            before_s = moment(time.monotonic()).wall_s - self._config.days * DAY_S
            for output_name in (_UNUSUAL, USUAL):
                self._table.forget(
                    _store_name(request.task.name, output_name),
                    keep=self._config.keep,
                    keep_marked=self._config.keep,
                    before_wall_s=before_s,
                )
        return is_unusual

    def mark(self, task: Task, mark: Mark) -> dict[str, Any]:
        """Takes what somebody says that a reading was; gives the data of the result. Raises CommandError."""
        config = task.config
        assert isinstance(config, UnusualTask)
        names = [_store_name(task.name, output) for output in (_UNUSUAL, USUAL)]
        newest = find_marked(self._table, self._config, names, mark)
        label = _label(config, newest, mark)
        self._table.set_label(newest.number, label)
        is_right = config.is_usual(label) == (newest.output == USUAL)
        return {"task": task.name, "output": newest.output, "answer": label, "is_right": is_right}


def _label(config: UnusualTask, kept: KeptAnswer, mark: Mark) -> str:
    """What the reading was. Raises CommandError."""
    if mark.answer is not None:
        if fault := config.answer_fault(mark.answer):
            raise CommandError(CommandCode.BAD_FIELD, f"{fault} (got {shown(mark.answer)})")
        named = str(mark.answer)
        return USUAL if config.is_usual(named) else named.strip()
    if mark.correct != (kept.output == USUAL):
        raise CommandError(CommandCode.BAD_FIELD, "answer: required, because `correct` does not say what it was")
    return USUAL


def _store_name(task: str, output: str) -> str:
    """Apart, so that usual readings, of which there are many more, displace no unusual ones."""
    return student_store_name(task, output)
