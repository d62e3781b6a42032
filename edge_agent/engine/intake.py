"""From a Run to a Request: its prompt's tokens, and an empty answer of the kind that it asks for."""

from __future__ import annotations

import json
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Any

from edge_agent.core.protocol import LabelsPlan, Run, SchemaPlan, TaskPrefix, TextPlan
from edge_agent.engine.answer.answers import LabelAnswer, TextAnswer
from edge_agent.engine.answer.json_answer import JsonAnswer, JsonSchema
from edge_agent.engine.answer.labels import LabelTree
from edge_agent.engine.answer.sampling import TokenPicker
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import THOUGHT_END, Chat
from edge_agent.engine.request import Request

# Plans come from the tasks of a configuration; more than this many and the oldest is made again when it is needed.
_MAX_KEPT = 64


class Intake:
    """Keeps what requests of one task have in common: the trees of labels, the plans or grammars of schemas."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._chat = Chat(llama)
        self._close_thought = llama.tokenize(f"{THOUGHT_END}\n\n", parse_special=True)
        self._trees: dict[tuple[str, ...], LabelTree] = {}
        self._schemas: dict[str, JsonSchema] = {}

    def prefix(self, task: TaskPrefix) -> list[int]:
        """See Chat.prefix."""
        return self._chat.prefix(task)

    def prompt_crc32(self, prompt: Sequence[int]) -> int | None:
        """See Finished."""
        if not self._chat.is_timeless:
            return None
        tokens = (*prompt, self._llama.end_of_turn, self._llama.eos)
        return zlib.crc32(struct.pack(f"<{len(tokens)}i", *tokens))

    def request(self, run: Run) -> Request:
        """Raises ChatError for messages that the model's template refuses.

        Any other error is the engine's own: SchemaError, GrammarError, or ValueError for labels without tokens.
        """
        thinks = isinstance(run.plan, TextPlan) and run.max_reasoning_tokens != 0
        prompt, is_open = self._chat.prompt(run.messages, thinks=thinks)
        if isinstance(run.plan, LabelsPlan):
            return Request(run, prompt, LabelAnswer(self._tree(run.plan.labels)))
        if isinstance(run.plan, SchemaPlan):
            return Request(run, prompt, self._schema_answer(run, run.plan))
        text = TextStream(stop=run.plan.stop, is_reasoning=self._chat.is_reasoning, is_open=is_open)
        return Request(run, prompt, self._text_answer(run, text))

    def _schema_answer(self, run: Run, plan: SchemaPlan) -> JsonAnswer | TextAnswer:
        schema = self._schema(plan.schema)
        matcher = schema.start()
        if matcher is None:
            return self._text_answer(run, TextStream(), schema)
        return JsonAnswer(
            self._llama, TokenPicker(self._llama, run.sampling), schema, matcher, max_tokens=run.max_tokens
        )

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
        tree = self._trees.get(labels)
        if tree is None:
            if len(self._trees) >= _MAX_KEPT:
                del self._trees[next(iter(self._trees))]
            tree = self._trees[labels] = LabelTree(labels, self._label_tokens, self._llama.end_of_turn)
        return tree

    def _label_tokens(self, label: str) -> list[int]:
        return self._llama.tokenize(unicodedata.normalize("NFC", label), parse_special=False)

    def _schema(self, schema: dict[str, Any]) -> JsonSchema:
        # Not sorted: keys are written in the schema's order.
        key = json.dumps(schema)
        found = self._schemas.get(key)
        if found is None:
            if len(self._schemas) >= _MAX_KEPT:
                del self._schemas[next(iter(self._schemas))]
            found = self._schemas[key] = JsonSchema(self._llama, schema)
        return found
