"""From the bytes of tokens to text: whole characters, the thought apart from the answer, no stop strings."""

import codecs
from collections.abc import Sequence

from edge_agent.engine.prompt.chat import THOUGHT_END, THOUGHT_START


class TextStream:
    """The text of one answer as it grows.

    A reasoning model may write <think>…</think>. The thought `is_open` if the prompt ends inside it.
    """

    def __init__(self, *, stop: Sequence[str] = (), is_reasoning: bool = False, is_open: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self.is_thinking = is_open
        self._may_begin_thought = is_reasoning and not is_open
        self._held = ""  # Not yet decided: it may become a mark or a stop string.
        self._thought: str | None = "" if is_open else None
        self.text = ""  # The answer so far, without an end that may become a stop string.
        self._shown = 0
        self.is_stopped = False

    @property
    def reasoning(self) -> str | None:
        """The thought so far; None if the model had none."""
        return None if self._thought is None else self._thought.strip()

    def write(self, data: bytes) -> None:
        if not self.is_stopped:
            self._held += self._decoder.decode(data)
            self._settle()

    def end(self) -> None:
        """No more tokens come: what was held back becomes text, except half a character."""
        if not self.is_stopped:
            self._settle(is_last=True)

    def take_delta(self) -> str:
        delta = self.text[self._shown :]
        self._shown = len(self.text)
        return delta

    def _settle(self, *, is_last: bool = False) -> None:
        if self._may_begin_thought:
            stripped = self._held.lstrip()
            if stripped.startswith(THOUGHT_START):
                self.is_thinking, self._thought = True, ""
                self._held = stripped.removeprefix(THOUGHT_START)
            elif THOUGHT_START.startswith(stripped) and not is_last:
                return
            self._may_begin_thought = False
        if self.is_thinking:
            thought, mark = self._take_until((THOUGHT_END,), is_last=is_last)
            self._thought = (self._thought or "") + thought
            if mark is None:
                return
            self.is_thinking = False
            self._held = self._held.removeprefix(mark)
        if self._thought is not None and not self.text:
            # The blank lines between thought and answer belong to neither.
            self._held = self._held.lstrip()
        text, mark = self._take_until(self._stop, is_last=is_last)
        self.text += text
        self.is_stopped = mark is not None

    def _take_until(self, marks: Sequence[str], *, is_last: bool) -> tuple[str, str | None]:
        """Takes the text up to the first mark or what may become one. The mark, if it is there, stays held."""
        matches = [(offset, mark) for mark in marks if (offset := self._held.find(mark)) >= 0]
        undecided = 0 if is_last else _overlap(self._held, marks)
        offset, mark = min(matches) if matches else (len(self._held) - undecided, None)
        text, self._held = self._held[:offset], self._held[offset:]
        return text, mark


def _overlap(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that a mark could begin with."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    for length in range(longest, 0, -1):
        if any(len(mark) > length and mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
