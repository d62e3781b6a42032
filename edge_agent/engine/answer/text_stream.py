"""From the bytes of tokens to text: whole characters, the thought apart from the answer, no stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from enum import Enum, auto

from edge_agent.engine.prompt.chat import THOUGHT_END, THOUGHT_START


class _Part(Enum):
    START = auto()
    THOUGHT = auto()
    GAP = auto()
    ANSWER = auto()


class TextStream:
    """The text of one answer as it grows.

    is_reasoning: the model may write <think>…</think>; is_open: the prompt ends inside a thought.
    """

    def __init__(self, *, stop: Sequence[str] = (), is_reasoning: bool = False, is_open: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        if is_open:
            self._part = _Part.THOUGHT
        else:
            self._part = _Part.START if is_reasoning else _Part.ANSWER
        self._held = ""
        self._thought: list[str] | None = [] if is_open else None
        self._answer: list[str] = []
        self._shown = 0
        self.is_stopped = False

    @property
    def is_thinking(self) -> bool:
        return self._part is _Part.THOUGHT

    @property
    def text(self) -> str:
        """The answer so far, without an end that may become a stop string."""
        return "".join(self._answer)

    @property
    def reasoning(self) -> str | None:
        """The thought so far; None = the model had none."""
        return None if self._thought is None else "".join(self._thought).strip()

    def write(self, data: bytes) -> None:
        """Adds the bytes of a token."""
        if not self.is_stopped:
            self._held += self._decoder.decode(data)
            self._settle()

    def end(self) -> None:
        """No more tokens come: what was held back becomes text, except half a character."""
        if not self.is_stopped:
            self._settle(is_last=True)

    def take_delta(self) -> str:
        """The text of the answer since the last call."""
        delta = "".join(self._answer[self._shown :])
        self._shown = len(self._answer)
        return delta

    def _settle(self, *, is_last: bool = False) -> None:
        if self._part is _Part.START:
            self._leave_start(is_last=is_last)
        if self._part is _Part.THOUGHT:
            self._leave_thought(is_last=is_last)
        if self._part is _Part.GAP:
            # The blank lines between thought and answer belong to neither.
            self._held = self._held.lstrip()
            if self._held:
                self._part = _Part.ANSWER
        if self._part is _Part.ANSWER:
            self._answer_until_stop(is_last=is_last)

    def _leave_start(self, *, is_last: bool) -> None:
        begun = self._held.lstrip()
        if begun.startswith(THOUGHT_START):
            self._held = begun.removeprefix(THOUGHT_START)
            self._thought = []
            self._part = _Part.THOUGHT
        elif is_last or not THOUGHT_START.startswith(begun):
            self._part = _Part.ANSWER

    def _leave_thought(self, *, is_last: bool) -> None:
        assert self._thought is not None
        thought, mark, rest = self._held.partition(THOUGHT_END)
        if mark:
            self._thought.append(thought)
            self._held = rest
            self._part = _Part.GAP
            return
        keep = 0 if is_last else _overlap(self._held, (THOUGHT_END,))
        self._thought.append(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def _answer_until_stop(self, *, is_last: bool) -> None:
        places = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if places:
            self._answer.append(self._held[: min(places)])
            self._held = ""
            self.is_stopped = True
            return
        keep = 0 if is_last else _overlap(self._held, self._stop)
        if ready := self._held[: len(self._held) - keep]:
            self._answer.append(ready)
        self._held = self._held[len(self._held) - keep :]


def _overlap(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that a mark could begin with."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    for length in range(longest, 0, -1):
        if any(len(mark) > length and mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
