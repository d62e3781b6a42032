"""The choice of the next token: the most probable one, or by llama.cpp's samplers, among those that may come next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from edge_agent.core.protocol import Sampling
from edge_agent.engine.llama import Candidates, Llama, NumericError, SamplerChain

# Sampled from at most this many allowed tokens: sorting a whole vocabulary takes longer than it is worth.
_MOST_CANDIDATES = 4096


class TokenPicker:
    """Picks the tokens of one request."""

    def __init__(self, llama: Llama, sampling: Sampling) -> None:
        self._llama = llama
        self._chain = SamplerChain(sampling) if sampling.temperature > 0 else None

    def pick(self, row: int) -> int:
        """The next token after this row of the last batch. Raises NumericError for a broken model."""
        logits = self._llama.logits(row)
        return int(np.argmax(logits)) if self._chain is None else self._llama.sample(self._chain, row)

    def pick_allowed(self, row: int, matcher: LLMatcher) -> int:
        """The next token after this row that the grammar allows. Raises NumericError."""
        token = self.pick(row)
        # Mostly it is allowed, which is found out a thousand times sooner than all that is.
        if matcher.validate_tokens([token]) == 1:
            return token
        allowed = self._llama.allowed_tokens(matcher)
        if not allowed.size:
            raise NumericError("no token of the vocabulary is allowed")
        logits = self._llama.logits(row)[allowed]
        if self._chain is None:
            return int(allowed[np.argmax(logits)])
        if allowed.size > _MOST_CANDIDATES:
            likely = np.argpartition(logits, -_MOST_CANDIDATES)[-_MOST_CANDIDATES:]
            allowed, logits = allowed[likely], logits[likely]
        return self._chain.pick(candidates(allowed, logits))


def candidates(tokens: npt.NDArray[np.intp], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    found = np.zeros(len(tokens), dtype=Candidates)
    found["id"] = tokens
    found["logit"] = logits
    return found
