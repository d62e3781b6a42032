"""Keeps readings of `unusual` tasks, so that people can say what they were. Unusual ones are always asked about.

Nothing is computed from the answers here: `edge-agent rows` makes rows of them.
"""

from typing import Any

from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.kinds.unusual import UNUSUAL, USUAL, UnusualTask
from edge_agent.core.pipe import Finished
from edge_agent.core.wording import shown
from edge_agent.learning.answers import KeptAnswer, student_store_name
from edge_agent.learning.feedback import Mark
from edge_agent.learning.keeper import Keeper
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task


class UnusualReadings(Keeper):
    kind = UnusualTask

    def keep(self, request: Request, event: Finished, output: Any, wall_s: float, value: Any) -> bool:  # noqa: ARG002 - for kinds
        assert request.task is not None
        if not self._config.enabled:
            return False
        is_unusual = bool(output["unusual"])
        kept_as = UNUSUAL if is_unusual else USUAL
        answer = {"scores": {}, "tokens": 0, "is_audit": is_unusual, "output": kept_as}
        name = student_store_name(request.task.name, kept_as)
        self._keep(name, request.task.definition, request, wall_s, value, **answer)
        return is_unusual and request.may_be_audited

    def mark(self, task: Task, mark: Mark) -> dict[str, Any]:
        """Takes what somebody says that a reading was."""
        config = task.config
        assert isinstance(config, UnusualTask)
        kept = self._find(task, mark)
        label = _label(config, kept, mark)
        self._table.set_label(kept.number, label, mark.by)
        is_right = config.is_usual(label) == (kept.output == USUAL)
        return {"task": task.name, "output": kept.output, "answer": label, "is_right": is_right}

    def export(self, task: Task, *, after: int, limit: int) -> dict[str, Any] | None:  # noqa: ARG002 - for kinds
        """Raises CommandError, because readings that somebody chose to name say nothing about all of them."""
        fault = f"`edge-agent audits {task.name}` on the board counts how many unusual readings were really unusual"
        raise CommandError(CommandCode.UNKNOWN_TASK, f"task: is of the kind unusual, which has no accuracy: {fault}")

    def _store_names(self, task: Task) -> list[str]:
        """Names them apart, so that usual readings, of which there are many more, displace no unusual ones."""
        return [student_store_name(task.name, output) for output in (UNUSUAL, USUAL)]


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
