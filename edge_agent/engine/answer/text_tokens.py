"""Texts that are forced, as the tokens that the model would write them with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from edge_agent.engine.llama import Llama

_MAX_KEPT = 16_384
_PROBE = '{"a b":"ü","c":[1,true,""]}'


class TextTokens:
    """Cuts texts into tokens, each text once."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self.of = lru_cache(_MAX_KEPT)(self._cut)

    @property
    def are_exact(self) -> bool:
        """Whether tokens stand for just the text: some tokenizers put a blank before it."""
        return b"".join(map(self._llama.piece, self.of(_PROBE))) == _PROBE.encode()

    def _cut(self, text: str) -> tuple[int, ...]:
        return tuple(self._llama.tokenize(text, parse_special=False))

    def settle(self, text: str, tokens: Sequence[int], least: int) -> tuple[int, str]:
        """How many of a text's tokens, `least` or more, stay whatever follows, and the text behind them.

        Words and numbers stay; marks at the end may become one token with what follows.
        """
        data = text.encode()
        word = len(text)
        while word and not text[word - 1].isalnum():
            word -= 1
        settled, end = 0, 0
        limit = len(text[:word].encode())
        for count, token in enumerate(tokens, start=1):
            end_of_token = end + len(self._llama.piece(token))
            if count > least and end_of_token > limit and _is_whole(data, end):
                break
            settled, end = count, end_of_token
        return settled, data[end:].decode()


def _is_whole(data: bytes, end: int) -> bool:
    """Whether no character is cut here."""
    return end >= len(data) or data[end] >> 6 != 0b10
