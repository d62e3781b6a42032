"""Prompts of a model that `edge-convert train` made: the fields of an input, instead of a chat."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.kinds.task import template_sha256
from edge_agent.core.pipe import EngineRequest, LabelsPlan, OddField, TaskPrefix, TextPlan
from edge_agent.core.wording import first_fault, shown
from edge_agent.gguf.field_table import UNLIKE, ControlToken, FieldTable, check_has_field, strangeness, values_of
from edge_agent.gguf.model import FIELDS_KEY

if TYPE_CHECKING:
    from edge_agent.engine.llama import Llama


@dataclass(frozen=True, slots=True)
class OutOfDistribution:
    """How to notice that an input is unlike the model's training."""

    text_excess: float | None = None  # By how much the strangeness of its texts exceeds its limit; None = it has none.
    token: int | None = None  # The token that the model prefers to all labels then; None = it was trained without one.
    max_log_odds: float = 0.0  # The log-odds of that token against the labels, above which it counts.


@dataclass(frozen=True, slots=True)
class ReadInput:
    """What a model of fields reads of an input."""

    prompt: list[int]
    odd_fields: tuple[OddField, ...]  # See Finished.
    rare_fields: dict[str, str]  # See Finished.


class FieldPrompts:
    """Prompts by a field table. Raises ValueError for one that does not fit the model's vocabulary."""

    is_reasoning = False
    is_timeless = True

    def __init__(self, llama: Llama, table: str) -> None:
        self._llama = llama
        try:
            self.table = FieldTable.model_validate_json(table)
        except ValidationError as error:
            raise ValueError(f"{FIELDS_KEY}: {first_fault(error)}") from error
        self._ids = dict[str, int]()
        for control in self.table.controls:
            tokens = llama.tokenize(control.text, parse_special=True)
            if len(tokens) != 1:
                raise ValueError(f"{FIELDS_KEY}: the vocabulary has no token {shown(control.text)}")
            self._ids[control.text] = tokens[0]

    def read(self, request: EngineRequest) -> ReadInput:
        """Raises Refusal for a task or an input that the model is not trained for."""
        self._check_task(request)
        task, text = request.task, request.messages[-1].content
        values, tokens = values_of(text), list[int]()
        check_has_field(self.table.tasks[task].fields, values, text)
        for part in self.table.parts(task, values):
            if isinstance(part, str):
                # As in training, and as a Chat does.
                tokens += self._llama.tokenize(unicodedata.normalize("NFC", part), parse_special=False)
            else:
                tokens.append(self.id_of(part))
        required = None if isinstance(request.plan, TextPlan) else request.plan.required
        odd_fields = self.table.odd_fields(task, values, required)
        return ReadInput(tokens, odd_fields, self.table.rare_fields(task, values))

    def out_of_distribution(self, task: str, prompt: Sequence[int]) -> OutOfDistribution:
        task_fields, excess, control = self.table.tasks[task], None, None
        if task_fields.most_strangeness is not None:
            lengths = [len(self._llama.piece(token)) for token in prompt if not self._llama.is_control(token)]
            excess = strangeness(lengths) - task_fields.most_strangeness
        if task_fields.most_log_odds is not None:
            control = self._ids[UNLIKE]
        return OutOfDistribution(excess, control, task_fields.most_log_odds or 0.0)

    def id_of(self, control: ControlToken) -> int:
        return self._ids[control.text]

    def prefix(self, _task: TaskPrefix) -> list[int]:
        """Empty: prompts are short."""
        return []

    def _check_task(self, request: EngineRequest) -> None:
        check_task(request, self.table.tasks)
        task_fields = self.table.tasks[request.task]
        if not task_fields.fits(request.plan):
            fault = f"as one of the kind {task_fields.kind}"
            if task_fields.labels and isinstance(request.plan, LabelsPlan):
                fault = f"with the labels {', '.join(task_fields.labels)} (got {', '.join(request.plan.labels)})"
            raise Refusal(Code.UNKNOWN_TASK, f"the model is trained for task {request.task} {fault}")
        if task_fields.template is not None:
            check_template(request, task_fields.template)


def check_task(request: EngineRequest, trained: Collection[str]) -> None:
    """Raises Refusal for a task that the model is not trained for."""
    if request.task not in trained:
        known = ", ".join(trained)
        raise Refusal(Code.UNKNOWN_TASK, f"the model is trained for the tasks {known} (got {shown(request.task)})")


def check_template(request: EngineRequest, template: str) -> None:
    """template: that of the training. Raises Refusal if the request's task has another one."""
    if template_sha256(template) != request.template_sha256:
        fault = f"with another template; tasks.{request.task}.template should be {shown(template)}"
        raise Refusal(Code.UNKNOWN_TASK, f"the model is trained for task {request.task} {fault}")
