"""Prompts of a model that `edge-convert train` made: the fields of an input, instead of a chat."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.kinds.task import template_sha256
from edge_agent.core.pipe import EngineRequest, LabelsPlan, OddField, TaskPrefix, TextPlan
from edge_agent.core.wording import first_fault, shown
from edge_agent.engine.usual import RarityModel
from edge_agent.gguf.field_table import ControlToken, FieldTable, check_has_field, strangeness, values_of
from edge_agent.gguf.model import FIELDS_KEY

if TYPE_CHECKING:
    from edge_agent.engine.llama import Llama


@dataclass(frozen=True, slots=True)
class ReadInput:
    """What a model of fields reads of an input."""

    prompt: list[int]
    odd_fields: tuple[OddField, ...]  # See Finished.
    rare_fields: dict[str, str]  # See Finished.
    unlike: float | None  # See Finished.


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
        self._rarity = {
            name: RarityModel(task.together) for name, task in self.table.tasks.items() if task.together is not None
        }
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
        numbers_excess, together = self._compare_numbers(task, values)
        excesses = [excess for excess in (numbers_excess, self._text_excess(task, tokens)) if excess is not None]
        return ReadInput(
            tokens, (*odd_fields, *together), self.table.rare_fields(task, values), max(excesses, default=None)
        )

    def _compare_numbers(self, task: str, values: Mapping[str, Any]) -> tuple[float | None, list[OddField]]:
        """By how much the score of the numbers exceeds its limit, None if it has none; and the fields that make it so.

        Odd fields and codes do not count: they are judged by themselves.
        """
        rarity, max_score = self._rarity.get(task), self.table.tasks[task].max_score
        if rarity is None or max_score is None:
            return None, []
        numbers = self.table.ordinary_numbers(task, values)
        if (excess := rarity.score(numbers) - max_score) <= 0:
            return excess, []
        because = [named for named in rarity.compare(numbers).because if named.field in numbers]
        return excess, [
            OddField(field=named.field, value=named.value, why="together", usual=named.usual) for named in because
        ]

    def _text_excess(self, task: str, prompt: Sequence[int]) -> float | None:
        """By how much the strangeness of the texts exceeds its limit; None if it has none."""
        if (limit := self.table.tasks[task].most_strangeness) is None:
            return None
        lengths = [len(self._llama.piece(token)) for token in prompt if not self._llama.is_control(token)]
        return strangeness(lengths) - limit

    def id_of(self, control: ControlToken) -> int:
        return self._ids[control.text]

    def prefix(self, _task: TaskPrefix) -> list[int]:
        """Empty, because prompts are short."""
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
    """Raises Refusal if the template of the request's task is not that of the training."""
    if template_sha256(template) != request.template_sha256:
        fault = f"with another template; tasks.{request.task}.template should be {shown(template)}"
        raise Refusal(Code.UNKNOWN_TASK, f"the model is trained for task {request.task} {fault}")
