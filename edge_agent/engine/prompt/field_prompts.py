"""Prompts of a model that `edge-convert train` made: the fields of an input, in place of a chat."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.pipe import ChatMessage, TaskPrefix
from edge_agent.core.wording import first_fault, shown
from edge_agent.engine.prompt.field_table import KEY, FieldTable

if TYPE_CHECKING:
    from edge_agent.engine.llama import Llama


class FieldPrompts:
    """Takes the place of a Chat. Raises ValueError for a table that does not fit the model's vocabulary."""

    is_reasoning = False
    is_timeless = True

    def __init__(self, llama: Llama, table: str) -> None:
        self._llama = llama
        try:
            self._table = FieldTable.model_validate_json(table)
        except ValidationError as error:
            raise ValueError(f"{KEY}: {first_fault(error)}") from error
        self._ids = dict[str, int]()
        for text in self._table.controls:
            tokens = llama.tokenize(text, parse_special=True)
            if len(tokens) != 1:
                raise ValueError(f"{KEY}: the vocabulary has no token {shown(text)}")
            self._ids[text] = tokens[0]

    def prompt(self, task: str, messages: Sequence[ChatMessage], *, thinks: bool) -> tuple[list[int], bool]:
        """As of a Chat. Raises Refusal for a task or an input that the model is not trained for."""
        del thinks
        tokens = list[int]()
        for part in self._table.parts(task, messages[-1].content):
            if isinstance(part, str):
                tokens += self._llama.tokenize(part, parse_special=False)
            else:
                tokens.append(self._ids[part.text])
        return tokens, False

    def prefix(self, _task: TaskPrefix) -> list[int]:
        """None: prompts are short."""
        return []

    def check_labels(self, task: str, labels: Collection[str]) -> None:
        """Raises Refusal for others than the model is trained for. labels: none = the task has another kind."""
        known = self._table.tasks[task].labels or ()
        if set(labels) != set(known):
            trained = f"the model is trained for task {task} with {_labels(known)}"
            raise Refusal(Code.UNKNOWN_TASK, f"{trained} (got {_labels(labels)})")


def _labels(labels: Collection[str]) -> str:
    return f"the labels {', '.join(labels)}" if labels else "no labels"
