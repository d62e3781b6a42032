"""From a Run to a Request: its prompt's tokens, and an empty answer of the kind that it asks for."""

from __future__ import annotations

import json
import unicodedata

import jsonschema

from edge_agent.engine.answer_plan import LabelTree
from edge_agent.engine.answers import LabelAnswer, TextAnswer
from edge_agent.engine.chat import THOUGHT_END, Chat
from edge_agent.engine.llama import Grammar, Llama
from edge_agent.engine.protocol import LabelsPlan, Run, SchemaPlan, TaskPrefix, TextPlan
from edge_agent.engine.request import Request
from edge_agent.engine.sampling import TokenPicker
from edge_agent.engine.schema_grammar import to_gbnf, validator
from edge_agent.engine.text_stream import TextStream

# Plans come from the tasks of a configuration; more than this many and the oldest is made again when it is needed.
_MAX_KEPT = 64


class Intake:
    """Keeps what requests of one task have in common: the trees of labels, the grammars of schemas."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._chat = Chat(llama)
        self._close_thought = llama.tokenize(f"{THOUGHT_END}\n\n", parse_special=True)
        self._trees: dict[tuple[str, ...], LabelTree] = {}
        self._grammars: dict[str, tuple[Grammar, jsonschema.Draft202012Validator]] = {}

    def prefix(self, task: TaskPrefix) -> list[int]:
        """See Chat.prefix."""
        return self._chat.prefix(task)

    def request(self, run: Run) -> Request:
        """Raises ChatError for messages that the model's template refuses.

        Any other error is the engine's own: SchemaError, GrammarError, or ValueError for labels without tokens.
        """
        thinks = isinstance(run.plan, TextPlan) and run.max_reasoning_tokens != 0
        prompt, is_open = self._chat.prompt(run.messages, thinks=thinks)
        if isinstance(run.plan, LabelsPlan):
            return Request(run, prompt, LabelAnswer(self._tree(run.plan.labels)))
        return Request(run, prompt, self._text_answer(run, run.plan, is_open=is_open))

    def _text_answer(self, run: Run, plan: SchemaPlan | TextPlan, *, is_open: bool) -> TextAnswer:
        grammar = schema = None
        if isinstance(plan, SchemaPlan):
            original, schema = self._grammar(plan)
            grammar = original.clone()
            text = TextStream()
        else:
            text = TextStream(stop=plan.stop, is_reasoning=self._chat.is_reasoning, is_open=is_open)
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

    def _grammar(self, plan: SchemaPlan) -> tuple[Grammar, jsonschema.Draft202012Validator]:
        # Not sorted: the order of keys is the order in which they are written.
        key = json.dumps(plan.schema)
        found = self._grammars.get(key)
        if found is None:
            if len(self._grammars) >= _MAX_KEPT:
                self._grammars.pop(next(iter(self._grammars)))[0].close()
            found = self._grammars[key] = (self._llama.grammar(to_gbnf(plan.schema)), validator(plan.schema))
        return found

    def close(self) -> None:
        for grammar, _ in self._grammars.values():
            grammar.close()
        self._grammars.clear()
