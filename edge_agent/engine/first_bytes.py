"""PURE: which tokens may come next by their first bytes, for most of a vocabulary is ruled out by these alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
# After all bytes: what begins with none.
_NONE = 256


class FirstBytes:
    """texts: what each token stands for; b"" for those that are not known by their texts, which are always possible."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        first = np.array([text[0] if text else _NONE for text in texts], dtype=np.int16)
        single = {text[0]: token for token, text in enumerate(texts) if len(text) == 1}
        self._single_bytes = np.array(list(single), dtype=np.intp)
        self._single_tokens = np.array(list(single.values()), dtype=np.int32)
        by_byte = np.argsort(first, kind="stable").astype(np.int32)
        self._tokens = np.split(by_byte, np.searchsorted(first[by_byte], np.arange(1, _NONE + 1)))

    def possible(self, allowed: Callable[[Tokens], npt.NDArray[np.bool_]]) -> Tokens:
        """All tokens that may be allowed, where of whatever is allowed the beginning is.

        allowed: tells it of each of some tokens; it is asked for those of one byte.
        """
        may_begin = np.ones(_NONE + 1, dtype=np.bool_)
        may_begin[self._single_bytes] = allowed(self._single_tokens)
        return np.concatenate([tokens for tokens, may in zip(self._tokens, may_begin, strict=True) if may])
