"""From a Run to a Request: its prompt's tokens, and an empty answer of the kind that it asks for."""

from __future__ import annotations

import json
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import jsonschema

from edge_agent.core.protocol import LabelsPlan, Run, SchemaPlan, TaskPrefix, TextPlan
from edge_agent.core.schemas import validator
from edge_agent.engine.answer.answer_guess import AnswerGuess
from edge_agent.engine.answer.answers import LabelAnswer, TextAnswer
from edge_agent.engine.answer.labels import LabelTree
from edge_agent.engine.answer.planned_answer import PlannedAnswer
from edge_agent.engine.answer.sampling import TokenPicker
from edge_agent.engine.answer.schema_grammar import to_gbnf
from edge_agent.engine.answer.schema_plan import SchemaWriter, plan
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.answer.text_tokens import TextTokens
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import THOUGHT_END, Chat
from edge_agent.engine.request import Request
from edge_agent.engine.samplers import Grammar

# Plans come from the tasks of a configuration; more than this many and the oldest is made again when it is needed.
_MAX_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Extract:
    """How answers to one schema are written, by a plan where there is one, and checked; and what they were lately."""

    writer: SchemaWriter | Grammar
    schema: jsonschema.Draft202012Validator
    guess: AnswerGuess = field(default_factory=AnswerGuess)


class Intake:
    """Keeps what requests of one task have in common: the trees of labels, the plans or grammars of schemas."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._chat = Chat(llama)
        self._close_thought = llama.tokenize(f"{THOUGHT_END}\n\n", parse_special=True)
        self._trees: dict[tuple[str, ...], LabelTree] = {}
        self._extracts: dict[str, _Extract] = {}
        self._text_tokens = TextTokens(llama)

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

    def _schema_answer(self, run: Run, plan: SchemaPlan) -> PlannedAnswer | TextAnswer:
        extract = self._extract(plan)
        if isinstance(extract.writer, Grammar):
            return self._text_answer(run, TextStream(), extract.writer.clone(), extract.schema)
        return PlannedAnswer(
            self._llama,
            TokenPicker(self._llama, run.sampling, None),
            self._text_tokens,
            extract.writer.start(),
            max_tokens=run.max_tokens,
            schema=extract.schema,
            guess=extract.guess,
        )

    def _text_answer(
        self,
        run: Run,
        text: TextStream,
        grammar: Grammar | None = None,
        schema: jsonschema.Draft202012Validator | None = None,
    ) -> TextAnswer:
        return TextAnswer(
            self._llama,
            TokenPicker(self._llama, run.sampling, grammar),
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

    def _extract(self, task: SchemaPlan) -> _Extract:
        # Not sorted: the order of keys is the order in which they are written.
        key = json.dumps(task.schema)
        found = self._extracts.get(key)
        if found is None:
            if len(self._extracts) >= _MAX_KEPT:
                self._close_writer(self._extracts.pop(next(iter(self._extracts))))
            writer = plan(task.schema) if self._text_tokens.are_exact else None
            found = self._extracts[key] = _Extract(
                self._llama.grammar(to_gbnf(task.schema)) if writer is None else writer, validator(task.schema)
            )
        return found

    def _close_writer(self, extract: _Extract) -> None:
        if isinstance(extract.writer, Grammar):
            extract.writer.close()

    def close(self) -> None:
        for extract in self._extracts.values():
            self._close_writer(extract)
        self._extracts.clear()
