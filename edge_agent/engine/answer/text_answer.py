"""Answers that a model writes token by token; text, with the thought of a reasoning model kept apart."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.core.pipe import EngineRequest, Finish
from edge_agent.engine.answer.answer import Answer, InvalidOutputError
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.llama import Llama, SamplerChain
from edge_agent.engine.prompt.chat import THOUGHT_END, THOUGHT_START
from edge_agent.engine.step.cache_sequence import CacheSequence

_THOUGHT_MARKS = (THOUGHT_START.encode(), THOUGHT_END.encode())


class WrittenAnswer(Answer):
    """An answer that the model chooses token by token."""

    def __init__(self, llama: Llama, request: EngineRequest, text: TextStream) -> None:
        self._llama = llama
        self._request = request
        # None if the most probable token is taken.
        self._sampler = SamplerChain(request.sampling) if request.sampling.temperature else None
        self._text = text

    @abstractmethod
    def next_tokens(self, row: int) -> list[int]:
        """Chooses after this row of the last batch; gives the tokens to decode next, none when the answer has ended.

        Raises NumericError, or InvalidOutputError where nothing can follow.
        """

    @abstractmethod
    def check(self) -> None:
        """Raises InvalidOutputError for a finished text that is no answer."""

    def max_cells(self, parallel_branches: int) -> int:  # noqa: ARG002 - it has none
        return self._request.max_tokens

    def read(self, sequence: CacheSequence, rows: Sequence[int]) -> None:
        for row in rows:
            following = self.next_tokens(row)
            if self.finish is not None or not sequence.continue_with(following):
                return

    def take_delta(self) -> str:
        return self._text.take_delta()

    def result(self) -> dict[str, Any]:
        self.check()
        return {
            "text": self._text.text,
            "reasoning": self._text.reasoning,
            "completion_tokens": self.completion_tokens,
        }

    def _pick(self, row: int) -> int:
        """The next token after this row of the last batch. Raises NumericError."""
        logits = self._llama.logits(row)
        return int(np.argmax(logits)) if self._sampler is None else self._llama.sample(self._sampler, row)


class TextAnswer(WrittenAnswer):
    """Writes until the model ends its turn, or a stop string or `max_tokens` ends it.

    After `max_reasoning_tokens` of a thought, the tokens `close_thought` are forced. They count toward `max_tokens`.
    """

    finish_of_turn = Finish.STOP

    def __init__(
        self, llama: Llama, request: EngineRequest, text: TextStream, close_thought: Sequence[int] = ()
    ) -> None:
        super().__init__(llama, request, text)
        self._close_thought = close_thought
        self._thought_tokens = 0

    def next_tokens(self, row: int) -> list[int]:
        token = self._pick(row)
        if self._llama.is_end(token):
            self._end(self.finish_of_turn)
            return []
        tokens = [token]
        self._write(token)
        if self.finish is None and self._text.is_thinking:
            self._thought_tokens += 1
            limit = self._request.max_reasoning_tokens
            if limit is not None and self._thought_tokens >= limit:
                for forced in self._close_thought:
                    if self.finish is None:
                        tokens.append(forced)
                        self._write(forced)
        return [] if self.finish is not None else tokens

    def check(self) -> None:
        """Refuses a text that is empty after a thought."""
        if self._text.reasoning is None or self._text.text or self._text.is_stopped:
            return
        if self.finish is Finish.STOP:
            raise InvalidOutputError("the model ended its turn after its thought, without an answer")
        limit, thought = self._request.max_tokens, self._request.max_reasoning_tokens
        raise InvalidOutputError(
            f"the thought took all of max_tokens ({limit}): raise it, or lower max_reasoning_tokens ({thought})"
        )

    def _write(self, token: int) -> None:
        self.completion_tokens += 1
        data = self._llama.piece(token)
        # Control tokens are not text, except the marks of a thought in some models.
        if not self._llama.is_control(token) or data in _THOUGHT_MARKS:
            self._text.write(data)
        if self._text.is_stopped:
            self._end(Finish.STOP)
        elif self.completion_tokens >= self._request.max_tokens:
            self._end(Finish.LENGTH)

    def _end(self, finish: Finish) -> None:
        self._text.end()
        self.finish = finish
