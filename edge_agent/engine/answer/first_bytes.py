"""PURE: which tokens may come next by their first bytes, for most of a vocabulary is ruled out by these alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]


class FirstBytes:
    """first: what each token's text begins with, or NONE where it is not known by its text, which is always possible.

    single: for bytes, the token of just this one.
    """

    # After all bytes.
    NONE = 256

    def __init__(self, first: npt.NDArray[np.int16], single: Mapping[int, int]) -> None:
        self._single_bytes = np.array(list(single), dtype=np.intp)
        self._single_tokens = np.array(list(single.values()), dtype=np.int32)
        by_byte = np.argsort(first, kind="stable").astype(np.int32)
        self._tokens = np.split(by_byte, np.searchsorted(first[by_byte], np.arange(1, self.NONE + 1)))

    def possible(self, allowed: Callable[[Tokens], npt.NDArray[np.bool_]]) -> Tokens:
        """All tokens that may be allowed, where of whatever is allowed the beginning is.

        allowed: tells it of each of some tokens; it is asked for those of one byte.
        """
        may_begin = np.ones(self.NONE + 1, dtype=np.bool_)
        may_begin[self._single_bytes] = allowed(self._single_tokens)
        return np.concatenate([tokens for tokens, may in zip(self._tokens, may_begin, strict=True) if may])
