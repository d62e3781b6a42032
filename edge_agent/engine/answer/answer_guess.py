"""PURE: what the next answer to a schema will probably be, so that it is decoded with the prompt and only checked.

Speculative decoding (Leviathan et al., ICML 2023) without a second model: sensors mostly say what they said before. The
guess is what the last two answers have in common. It changes no answer: each decision is made from the model's own
logits, and what was guessed is kept only as far as it is what was decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens of an answer, and the offsets of those after which something was decided; -1 = after the prompt."""

    tokens: tuple[int, ...] = ()
    decisions: tuple[int, ...] = ()


class AnswerGuess:
    """Learns from the answers to one schema."""

    def __init__(self) -> None:
        self._last = Draft()
        self._guess = Draft()

    def learn(self, answer: Draft) -> None:
        """An answer has ended."""
        tokens = common_beginning(self._last.tokens, answer.tokens)
        # The last token is one after which the next decision can be made.
        decisions = tuple(at for at in common_beginning(self._last.decisions, answer.decisions) if at < len(tokens))
        self._guess = Draft(tokens[: decisions[-1] + 1], decisions) if decisions else Draft()
        self._last = answer

    def behind(self, opening: Sequence[int], most: int) -> Draft:
        """A draft that begins with this opening and has at most so many tokens; without a guess the opening alone."""
        plain = Draft(tuple(opening), (len(opening) - 1,))
        guess = self._guess
        decisions = tuple(at for at in guess.decisions if len(opening) - 1 <= at < most)
        if guess.tokens[: len(opening)] != plain.tokens or decisions[:1] != plain.decisions:
            return plain
        return Draft(guess.tokens[: decisions[-1] + 1], decisions)


def common_beginning(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """What both begin with."""
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
