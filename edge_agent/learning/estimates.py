"""Keeps answers of `estimate` tasks, and measures by the true numbers of audits how near they are.

This changes only health and an alarm. It takes a new training to make answers nearer.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.estimate import EstimateTask
from edge_agent.core.pipe import Finished
from edge_agent.core.strict_json import compact_json, number_of
from edge_agent.core.wording import shown
from edge_agent.learning.answers import AuditCounts, KeptAnswer
from edge_agent.learning.feedback import Mark, page_of
from edge_agent.learning.keeper import Keeper
from edge_agent.learning.maths.numbers import MAX_AUDITS, JudgedNumber, count_held, falls_short, mean_error
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task
from edge_agent.status.alarms import Finding, Severity

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberAccuracy:
    """How near the answers of a task are to the true numbers that audits told, without answers that have no number."""

    mean_error: float | None  # None without audits.
    holds: float | None  # The share of the intervals that hold the true number.
    mean_error_recent: float | None  # The same of the newest audits, by which the alarm is raised.
    holds_recent: float | None
    audits: int  # Those that are answered, also of readings that got no number.
    feedback: int  # Other answers with feedback.
    since: str | None  # The first audit.


@dataclass(frozen=True, slots=True)
class _Measured:
    accuracy: NumberAccuracy
    finding: Finding | None  # The cause of an alarm.


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counted again after each answer and all feedback."""

    given: float | None  # The share of the kept answers that got a number; None without any.
    audits: AuditCounts

    def as_health(self, accuracy: NumberAccuracy) -> dict[str, Any]:
        return {"given": self.given, **asdict(accuracy), **asdict(self.audits)}


class Estimates(Keeper):
    kind = EstimateTask

    def set_model(self, weights_sha256: str) -> None:
        super().set_model(weights_sha256)
        self._measured.clear()
        self._counted.clear()

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        super().reconfigure(config, tasks)
        self._measured: dict[str, _Measured] = {}
        self._counted: dict[str, _Counted] = {}

    def keep(self, request: Request, event: Finished, output: Any, wall_s: float, value: Any) -> bool:
        """Also keeps a reading that is refused as unlike training, because the next training needs its true number."""
        task = request.task
        assert task is not None
        config = task.config
        assert isinstance(config, EstimateTask)
        if not self._config.enabled or event.scores is None:
            return False
        is_audit = request.may_be_audited and _random.random() < config.audit_rate
        answer: dict[str, Any] = {"tokens": event.prompt_tokens, "is_audit": is_audit}
        if output is None:
            answer |= {"scores": {}, "output": None, "is_refused": True}
        else:
            low, high = config.interval_of(event.scores)
            answer |= {"scores": {"low": low, "high": high}, "output": compact_json(output)}
        self._keep(task.name, self._basis(task), request, wall_s, value, **answer)
        self._counted.pop(task.name, None)
        return is_audit

    def mark(self, task: Task, mark: Mark) -> dict[str, Any]:
        """Takes the true number of an answer."""
        kept = self._find(task, mark)
        if fault := task.config.answer_fault(mark.answer):
            raise CommandError(CommandCode.BAD_FIELD, f"{fault} (got {shown(mark.answer)})")
        number = number_of(mark.answer)
        self._table.set_label(kept.number, compact_json(number), mark.by)
        self._measured.pop(task.name, None)
        self._counted.pop(task.name, None)
        output = number_of(kept.output)
        is_right = None if output is None else task.config.is_right(output, number)
        return {"task": task.name, "output": output, "answer": number, "is_right": is_right}

    def facts(self) -> dict[str, Mapping[str, Any]]:
        measured = self._all_measured()
        for name in measured.keys() - self._counted.keys():
            basis = self._basis(self._tasks[name])
            self._counted[name] = _Counted(self._table.share_given(basis), self._table.audit_counts(basis))
        return {name: self._counted[name].as_health(each.accuracy) for name, each in measured.items()}

    def findings(self) -> dict[str, Finding | None]:
        measured = self._all_measured()
        return {name: each.finding for name, each in measured.items() if each.accuracy.mean_error is not None}

    def export(self, task: Task, *, after: int, limit: int) -> dict[str, Any]:
        config = task.config
        assert isinstance(config, EstimateTask)
        kept = self._table.all_for(self._basis(task), after=after, limit=limit)
        facts = {
            "task": task.name,
            "kind": config.kind,
            "definition": task.definition,
            "model": self._weights_sha256,
            "confidence": config.confidence,
            "unit": config.unit,
        }
        return page_of(facts, kept, _exported)

    def _all_measured(self) -> Mapping[str, _Measured]:
        """Computed again only after feedback."""
        if not self._config.enabled:
            return {}
        for name, task in self._tasks.items():
            if name not in self._measured:
                self._measured[name] = self._measure(task)
        return self._measured

    def _measure(self, task: Task) -> _Measured:
        config = task.config
        assert isinstance(config, EstimateTask)
        asked = self._table.asked_or_marked(self._basis(task))
        audits = [answer for answer in asked if answer.is_audit and answer.is_marked]
        judged = [number for answer in audits if (number := _judged(answer)) is not None]
        newest = judged[-MAX_AUDITS:]
        accuracy = NumberAccuracy(
            mean_error=mean_error(judged) if judged else None,
            holds=count_held(judged) / len(judged) if judged else None,
            mean_error_recent=mean_error(newest) if newest else None,
            holds_recent=count_held(newest) / len(newest) if newest else None,
            audits=len(audits),
            feedback=sum(answer.is_marked and not answer.is_audit for answer in asked),
            since=timestamp(audits[0].wall_s) if audits else None,
        )
        if not falls_short(judged, config.confidence):
            return _Measured(accuracy, None)
        message = (
            f"intervals of task {task.name} hold {count_held(newest)} of the newest {len(newest)} true numbers, and "
            f"should hold {config.confidence:.0%}: look at what its sensors send, train again or roll back the model"
        )
        return _Measured(accuracy, Finding(Severity.WARNING, message, round(count_held(newest) / len(newest), 3)))

    def _basis(self, task: Task) -> str:
        return task.basis_for(self._weights_sha256)


def _judged(answer: KeptAnswer) -> JudgedNumber | None:
    """How near an answer is; None for a reading that got no number, and where damage has changed it."""
    output, true, interval = number_of(answer.output), number_of(answer.label), _interval(answer)
    if output is None or true is None or interval is None:
        return None
    return JudgedNumber.of(output, true, *interval)


def _interval(answer: KeptAnswer) -> tuple[float, float] | None:
    low, high = answer.scores.get("low"), answer.scores.get("high")
    return None if low is None or high is None else (low, high)


def _exported(kept: KeptAnswer) -> dict[str, Any]:
    return {
        "at": timestamp(kept.wall_s),
        "number": kept.number,
        "interval": _interval(kept),
        "output": number_of(kept.output),
        "label": number_of(kept.label),
        "is_marked": kept.is_marked,
        "is_audit": kept.is_audit,
        "by": kept.marked_by,
    }
