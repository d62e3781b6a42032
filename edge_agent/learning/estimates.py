"""Keeps answers of `estimate` tasks, and measures by the true numbers of audits how near they are.

Belongs to the agent's thread. Nothing changes by it but health: a new training makes answers nearer.
"""

import json
import random
import time
from collections.abc import Mapping
from typing import Any

from edge_agent.core.clock import moment, timestamp
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.estimate import EstimateTask
from edge_agent.core.pipe import Finished
from edge_agent.core.strict_json import compact_json, encode, number_of
from edge_agent.core.wording import shown
from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.audited import DAY_S, FORGET_EVERY
from edge_agent.learning.facts import NumberAccuracy
from edge_agent.learning.feedback import Mark, find_marked
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task


class Estimates:
    def __init__(
        self, config: FeedbackConfig, tasks: Mapping[str, Task], table: AnswerTable, weights_sha256: str
    ) -> None:
        self._table = table
        self._random = random.SystemRandom()
        self._kept_count = 0
        self._weights_sha256 = weights_sha256
        self.reconfigure(config, tasks)

    def set_model(self, weights_sha256: str) -> None:
        self._weights_sha256 = weights_sha256
        self._facts.clear()

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        self._config = config
        self._tasks = {name: task for name, task in tasks.items() if isinstance(task.config, EstimateTask)}
        self._facts: dict[str, NumberAccuracy] = {}

    def keep(self, request: Request, event: Finished, output: float | None, wall_s: float, value: Any) -> bool:
        """Keeps an answer; returns whether its caller is asked for the true number. value: the input, None if not kept.

        Without an output there is nothing to be near.
        """
        task = request.task
        assert task is not None
        config = task.config
        assert isinstance(config, EstimateTask)
        if not self._config.enabled or output is None or event.scores is None:
            return False
        low, high = config.interval_of(event.scores)
        # A bare output has no room for the question.
        is_audit = request.error_topic is None and self._random.random() < config.audit_rate
        answer = KeptAnswer(
            id=json.dumps(request.id),
            reply_topic=request.reply_topic,
            wall_s=wall_s,
            scores={"low": low, "high": high},
            tokens=event.prompt_tokens,
            is_audit=is_audit,
            input=None if value is None else encode(value),
            output=compact_json(output),
        )
        self._table.keep(task.name, self._basis(task), answer)
        self._kept_count += 1
        if self._kept_count % FORGET_EVERY == 0:
            before_s, keep = moment(time.monotonic()).wall_s - self._config.days * DAY_S, self._config.keep
            self._table.forget(task.name, keep=keep, keep_marked=keep, before_wall_s=before_s)
        return is_audit

    def mark(self, task: Task, mark: Mark) -> dict[str, Any]:
        """Takes the true number of an answer; gives the data of the result. Raises CommandError."""
        kept = find_marked(self._table, self._config, [task.name], mark)
        if fault := task.config.answer_fault(mark.answer):
            raise CommandError(CommandCode.BAD_FIELD, f"{fault} (got {shown(mark.answer)})")
        number = number_of(mark.answer)
        self._table.set_label(kept.number, compact_json(number))
        self._facts.pop(task.name, None)
        output = number_of(kept.output)
        is_right = task.config.is_right(output, number)
        return {"task": task.name, "output": output, "answer": number, "is_right": is_right}

    def facts(self) -> dict[str, NumberAccuracy]:
        """Computed again after feedback alone."""
        if not self._config.enabled:
            return {}
        for name, task in self._tasks.items():
            if name not in self._facts:
                self._facts[name] = self._measure(task)
        return dict(self._facts)

    def _measure(self, task: Task) -> NumberAccuracy:
        asked = self._table.asked_or_marked(self._basis(task))
        audits = [answer for answer in asked if answer.is_audit and answer.is_marked]
        errors, held = list[float](), 0
        for answer in audits:
            output, true = number_of(answer.output), number_of(answer.label)
            if output is not None and true is not None:
                errors.append(abs(output - true))
                held += answer.scores["low"] <= true <= answer.scores["high"]
        return NumberAccuracy(
            mean_error=sum(errors) / len(errors) if errors else None,
            holds=held / len(errors) if errors else None,
            asked=sum(answer.is_audit and answer.number <= audits[-1].number for answer in asked) if audits else 0,
            audits=len(errors),
            feedback=sum(answer.is_marked and not answer.is_audit for answer in asked),
            since=timestamp(audits[0].wall_s) if audits else None,
        )

    def _basis(self, task: Task) -> str:
        return task.basis_for(self._weights_sha256)
