"""PURE: which tokens may come next by their first bytes, for most of a vocabulary is ruled out by these alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

# Of no text, or of one that is not asked about.
_NONE = 256


class FirstBytes:
    """The byte that each token's text begins with, and for each byte the token that is just this one."""

    def __init__(self, vocabulary_size: int) -> None:
        self._first = np.full(vocabulary_size, _NONE, dtype=np.int16)
        self._single: dict[int, int] = {}

    def add(self, token: int, text: bytes) -> None:
        if text:
            self._first[token] = text[0]
        if len(text) == 1:
            self._single[text[0]] = token

    def possible(
        self, tokens: npt.NDArray[np.int32], allowed: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]
    ) -> npt.NDArray[np.bool_]:
        """Which of these tokens may be allowed, where whatever is, so is its beginning.

        allowed: tells it of each of some tokens; it is asked for those of one byte.
        """
        may_begin = np.ones(_NONE + 1, dtype=np.bool_)
        may_begin[list(self._single)] = allowed(np.array(list(self._single.values()), dtype=np.int32))
        return may_begin[self._first[tokens]]
