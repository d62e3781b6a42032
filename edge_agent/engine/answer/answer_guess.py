"""A guess of the next answer to a schema, which is decoded with the prompt and then only checked.

Speculative decoding (Leviathan et al., ICML 2023) without a second model: sensors mostly repeat themselves. The guess
is the common beginning of the last two answers. It changes no answer: the model's own logits make each choice. Guessed
tokens are kept only as far as they agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """An answer's tokens, guessed or final, and the offsets of those after which the model chose; -1 = the prompt."""

    tokens: tuple[int, ...] = ()
    decisions: tuple[int, ...] = ()


class AnswerGuess:
    """Learns from the answers to one schema."""

    def __init__(self) -> None:
        self._last = AnswerTokens()
        self._guess = AnswerTokens()

    def learn(self, answer: AnswerTokens) -> None:
        """Call with each finished answer."""
        length = common_length(self._last.tokens, answer.tokens)
        count = common_length(self._last.decisions, answer.decisions)
        decisions = tuple(at for at in answer.decisions[:count] if at < length)
        # The last token is one after which the model chooses.
        self._guess = AnswerTokens(answer.tokens[: decisions[-1] + 1], decisions) if decisions else AnswerTokens()
        self._last = answer

    def draft_after(self, opening: Sequence[int], most: int) -> AnswerTokens:
        """This opening and what probably follows, at most `most` tokens; without a guess the opening alone."""
        plain = AnswerTokens(tuple(opening), (len(opening) - 1,))
        decisions = tuple(at for at in self._guess.decisions if at < most)
        if decisions[:1] != plain.decisions:
            return plain
        return AnswerTokens(self._guess.tokens[: decisions[-1] + 1], decisions)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(takewhile(bool, map(eq, one, other)))
