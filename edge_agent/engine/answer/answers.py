"""The answer of one request as it forms: labels that are scored, or text that is written token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_agent.core.protocol import Finish
from edge_agent.engine.answer.json_answer import JsonSchema
from edge_agent.engine.answer.labels import LabelTree, Path
from edge_agent.engine.answer.sampling import TokenPicker
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import THOUGHT_END, THOUGHT_START

_THOUGHT_MARKS = (THOUGHT_START.encode(), THOUGHT_END.encode())


class LabelAnswer:
    """Collects the logits that the labels' tree asks for."""

    def __init__(self, tree: LabelTree) -> None:
        self.tree = tree
        self._logits: dict[Path, npt.NDArray[np.float32]] = {}

    def take(self, path: Path, row: npt.NDArray[np.float32]) -> None:
        """The row [vocabulary] after the prompt and this path of label tokens."""
        self._logits[path] = self.tree.choose(path, row)

    def scores(self) -> dict[str, float]:
        return self.tree.scores(self._logits.__getitem__)

    def close(self) -> None:
        self._logits.clear()


class TextAnswer:
    """Writes until the model ends its turn, a stop string or `max_tokens`.

    max_reasoning_tokens: when a thought is this long, `close_thought` is forced after it and the answer comes; tokens
    of the thought and forced ones count for max_tokens too.
    schema: the finished text must be JSON that keeps to it.
    """

    def __init__(
        self,
        llama: Llama,
        picker: TokenPicker,
        text: TextStream,
        *,
        max_tokens: int,
        max_reasoning_tokens: int | None,
        close_thought: Sequence[int],
        schema: JsonSchema | None,
    ) -> None:
        self._llama = llama
        self._picker = picker
        self._text = text
        self._max_tokens = max_tokens
        self._max_reasoning_tokens = max_reasoning_tokens
        self._close_thought = close_thought
        self._schema = schema
        self._thought_tokens = 0
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

    def next_tokens(self, row: int) -> list[int]:
        """Pick after this row of the last batch; gives the tokens to decode next, none when the answer has ended.

        Raises NumericError.
        """
        token = self._picker.pick(row)
        if self._llama.is_end(token):
            self._end(Finish.STOP if self._schema is None else Finish.SCHEMA)
            return []
        tokens = [token]
        self._write(token)
        if self.finish is None and self._text.is_thinking:
            self._thought_tokens += 1
            if self._max_reasoning_tokens is not None and self._thought_tokens >= self._max_reasoning_tokens:
                for forced in self._close_thought:
                    if self.finish is None:
                        tokens.append(forced)
                        self._write(forced)
        return [] if self.finish is not None else tokens

    def check(self) -> None:
        """Raises InvalidOutputError unless the finished text keeps to the schema, where there is one."""
        if self._schema is not None:
            self._schema.check(self.text, self.finish, self._max_tokens)

    def _write(self, token: int) -> None:
        self.completion_tokens += 1
        data = self._llama.piece(token)
        # Control tokens are not text; in some models the marks of a thought are control tokens.
        if not self._llama.is_control(token) or data in _THOUGHT_MARKS:
            self._text.write(data)
        if self._text.is_stopped:
            self._end(Finish.STOP)
        elif self.completion_tokens >= self._max_tokens:
            self._end(Finish.LENGTH)

    def _end(self, finish: Finish) -> None:
        self._text.end()
        self.finish = finish

    def close(self) -> None:
        self._picker.close()
