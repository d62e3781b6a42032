"""Answers that a model writes token by token; text, with the thought of a reasoning model kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.core.pipe import Finish, Run
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.llama import Llama, SamplerChain
from edge_agent.engine.prompt.chat import THOUGHT_END, THOUGHT_START

if TYPE_CHECKING:
    from edge_agent.engine.answer.json_answer import JsonSchema

_THOUGHT_MARKS = (THOUGHT_START.encode(), THOUGHT_END.encode())


class InvalidOutputError(Exception):
    """What the model wrote is no answer; the message says why."""


class WrittenAnswer:
    """The text of an answer and how it ended; finish: None = it goes on."""

    def __init__(self, llama: Llama, run: Run, text: TextStream) -> None:
        self._llama = llama
        self._run = run
        # None: the most probable token is taken.
        self._sampler = SamplerChain(run.sampling) if run.sampling.temperature else None
        self._text = text
        self.completion_tokens = 0
        self.finish: Finish | None = None

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def reasoning(self) -> str | None:
        return self._text.reasoning

    def take_delta(self) -> str:
        return self._text.take_delta()

    def _pick(self, row: int) -> int:
        """The next token after this row of the last batch. Raises NumericError."""
        logits = self._llama.logits(row)
        return int(np.argmax(logits)) if self._sampler is None else self._llama.sample(self._sampler, row)


class TextAnswer(WrittenAnswer):
    """Writes until the model ends its turn, or a stop string or `max_tokens` ends it.

    close_thought: tokens that are forced after `max_reasoning_tokens` of a thought; they count toward `max_tokens`.
    schema: the finished text must be JSON that validates.
    """

    def __init__(
        self, llama: Llama, run: Run, text: TextStream, close_thought: Sequence[int], schema: JsonSchema | None
    ) -> None:
        super().__init__(llama, run, text)
        self._close_thought = close_thought
        self._schema = schema
        self._thought_tokens = 0

    def next_tokens(self, row: int) -> list[int]:
        """Picks after this row of the last batch; returns the tokens to decode next, none when the answer has ended.

        Raises NumericError.
        """
        token = self._pick(row)
        if self._llama.is_end(token):
            self._end(Finish.STOP if self._schema is None else Finish.SCHEMA)
            return []
        tokens = [token]
        self._write(token)
        if self.finish is None and self._text.is_thinking:
            self._thought_tokens += 1
            most = self._run.max_reasoning_tokens
            if most is not None and self._thought_tokens >= most:
                for forced in self._close_thought:
                    if self.finish is None:
                        tokens.append(forced)
                        self._write(forced)
        return [] if self.finish is not None else tokens

    def check(self) -> None:
        """Raises InvalidOutputError for a finished text that does not validate, or is empty after a thought."""
        if self._schema is not None:
            self._schema.check(self.text, self.finish, self._run.max_tokens)
        elif self.reasoning is not None and not self.text and not self._text.is_stopped:
            if self.finish is Finish.STOP:
                raise InvalidOutputError("the model ended its turn after its thought, without an answer")
            most, thought = self._run.max_tokens, self._run.max_reasoning_tokens
            raise InvalidOutputError(
                f"the thought took all of max_tokens ({most}): raise it, or lower max_reasoning_tokens ({thought})"
            )

    def _write(self, token: int) -> None:
        self.completion_tokens += 1
        data = self._llama.piece(token)
        # Control tokens are not text, except the marks of a thought in some models.
        if not self._llama.is_control(token) or data in _THOUGHT_MARKS:
            self._text.write(data)
        if self._text.is_stopped:
            self._end(Finish.STOP)
        elif self.completion_tokens >= self._run.max_tokens:
            self._end(Finish.LENGTH)

    def _end(self, finish: Finish) -> None:
        self._text.end()
        self.finish = finish
