"""Numbers as answers of a trained model: the chances of their bins, which are labels of one token each."""

from collections.abc import Callable
from functools import cache
from typing import Any

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.pipe import Finish
from edge_agent.engine.answer.labels import LabelAnswer, LabelTree, LogitsRow
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import Chat
from edge_agent.engine.prompt.field_prompts import FieldPrompts
from edge_agent.gguf.field_table import NumberBins


class NumberAnswer(LabelAnswer):
    """A LabelAnswer whose labels are bins of numbers, with the chances corrected."""

    end = Finish.MODEL

    def __init__(self, logits: Callable[[int], LogitsRow], tree: LabelTree, bins: NumberBins) -> None:
        super().__init__(logits, tree)
        self._bins = bins

    def result(self) -> dict[str, Any]:
        return {"scores": self._bins.corrected([*super().result()["scores"].values()])}


class NumberAnswers:
    """Begins answers, and keeps the bins of each task."""

    def __init__(self, llama: Llama, chat: Chat | FieldPrompts) -> None:
        self._llama = llama
        self._chat = chat
        self._tree = cache(self._make_tree)

    def begin(self, task: str) -> NumberAnswer:
        """Raises Refusal for a model that was not trained."""
        if not isinstance(self._chat, FieldPrompts):
            message = "a number is estimated only by a model that `edge-convert train` made"
            raise Refusal(Code.UNKNOWN_TASK, message)
        bins = self._chat.table.tasks[task].number
        assert bins is not None
        return NumberAnswer(self._llama.logits, self._tree(self._chat, task), bins)

    def _make_tree(self, prompts: FieldPrompts, task: str) -> LabelTree:
        tokens = [prompts.id_of(control) for control in prompts.table.answer_bins(task)]
        return LabelTree([*map(str, tokens)], lambda token: [int(token)], self._llama.end_of_turn)
