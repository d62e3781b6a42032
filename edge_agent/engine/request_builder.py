"""From a Run to an ActiveRequest: the tokens of its prompt, and an empty answer of the kind that its plan wants."""

from __future__ import annotations

import json
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache

from edge_agent.core.protocol import LabelsPlan, Run, SchemaPlan, TaskPrefix, TextPlan
from edge_agent.engine.active_request import ActiveRequest
from edge_agent.engine.answer.json_answer import JsonAnswer, JsonSchema
from edge_agent.engine.answer.labels import LabelAnswer, LabelTree
from edge_agent.engine.answer.sampling import TokenPicker
from edge_agent.engine.answer.text_answer import TextAnswer
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import THOUGHT_END, Chat

# Of trees of labels and of schemas; they come from the tasks of a configuration.
_MOST_KEPT = 64


class RequestBuilder:
    """Keeps what the requests of a task have in common: trees of labels, compiled schemas."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self.chat = Chat(llama)
        self._close_thought = llama.tokenize(f"{THOUGHT_END}\n\n", parse_special=True)
        self.tree = lru_cache(_MOST_KEPT)(self._tree)
        self._schema = lru_cache(_MOST_KEPT)(lambda text: JsonSchema(llama, json.loads(text)))

    def prefix(self, task: TaskPrefix) -> list[int]:
        """See Chat.prefix."""
        return self.chat.prefix(task)

    def prompt_crc32(self, prompt: Sequence[int]) -> int | None:
        """See Finished."""
        if not self.chat.is_timeless:
            return None
        tokens = (*prompt, self._llama.end_of_turn, self._llama.eos)
        return zlib.crc32(struct.pack(f"<{len(tokens)}i", *tokens))

    def build(self, run: Run) -> ActiveRequest:
        """Raises ChatError for messages that the model's template refuses, ValueError for a label without tokens."""
        thinks = isinstance(run.plan, TextPlan) and run.max_reasoning_tokens != 0
        prompt, is_open = self.chat.prompt(run.messages, thinks=thinks)
        if isinstance(run.plan, LabelsPlan):
            return ActiveRequest(run, prompt, LabelAnswer(self.tree(run.plan.labels)))
        if isinstance(run.plan, SchemaPlan):
            return ActiveRequest(run, prompt, self._json_answer(run, run.plan))
        text = TextStream(stop=run.plan.stop, is_reasoning=self.chat.is_reasoning, is_open=is_open)
        return ActiveRequest(run, prompt, self._text_answer(run, text))

    def _json_answer(self, run: Run, plan: SchemaPlan) -> JsonAnswer | TextAnswer:
        # Not sorted: the schema's order is the order of the answer's keys.
        schema = self._schema(json.dumps(plan.schema))
        matcher = schema.start()
        if matcher is None:
            return self._text_answer(run, TextStream(), schema)
        picker = TokenPicker(self._llama, run.sampling)
        return JsonAnswer(self._llama, picker, schema, matcher, max_tokens=run.max_tokens)

    def _text_answer(self, run: Run, text: TextStream, schema: JsonSchema | None = None) -> TextAnswer:
        return TextAnswer(
            self._llama,
            TokenPicker(self._llama, run.sampling),
            text,
            max_tokens=run.max_tokens,
            max_reasoning_tokens=run.max_reasoning_tokens,
            close_thought=self._close_thought,
            schema=schema,
        )

    def _tree(self, labels: tuple[str, ...]) -> LabelTree:
        return LabelTree(labels, self._label_tokens, self._llama.end_of_turn)

    def _label_tokens(self, label: str) -> list[int]:
        return self._llama.tokenize(unicodedata.normalize("NFC", label), parse_special=False)
