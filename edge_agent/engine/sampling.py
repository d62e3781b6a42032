"""The choice of the next token: greedy or by llama.cpp's samplers, held to a grammar where there is one."""

from __future__ import annotations

import secrets

import numpy as np

from edge_agent.engine.llama import Candidates, Grammar, Llama, Logits, SamplerChain
from edge_agent.engine.protocol import Sampling

# Most tokens that a grammar refuses have an allowed one close behind: masking so many candidates costs 0.5 and 1 ms,
# all of a vocabulary of 152 thousand 15 ms.
_CANDIDATES = (128, 4096)
# The last 32-bit number means "random" to llama.cpp.
_SEEDS = 2**32 - 1


class NumericError(Exception):
    """The model's logits are not numbers."""


class TokenPicker:
    """Picks the tokens of one request. Close it with the request.

    grammar: a clone of its own; the picker closes it.
    """

    def __init__(self, llama: Llama, sampling: Sampling, grammar: Grammar | None) -> None:
        self._llama = llama
        self._grammar = grammar
        self._chain = None
        if sampling.temperature > 0:
            self._chain = SamplerChain(
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                temperature=sampling.temperature,
                seed=secrets.randbelow(_SEEDS) if sampling.seed is None else sampling.seed % _SEEDS,
            )

    @property
    def is_complete(self) -> bool:
        """Whether the grammar has all it wants: only the end may follow."""
        return self._grammar is not None and self._grammar.allows(self._llama.end_of_turn)

    def pick(self, row: int) -> int:
        """The next token after this row of the last batch. Raises NumericError for a broken model."""
        logits = self._llama.logits(row)
        token = int(np.argmax(logits)) if self._chain is None else self._llama.sample(self._chain, row)
        # argmax gives the place of a NaN if there is one.
        if not np.isfinite(logits[token]):
            raise NumericError(f"the logit of token {token} is {logits[token]}")
        if self._grammar is not None:
            if not self._grammar.allows(token):
                token = self._pick_allowed(self._grammar, logits)
            self._grammar.accept(token)
        return token

    def _pick_allowed(self, grammar: Grammar, logits: Logits) -> int:
        if self._chain is None:
            for count in _CANDIDATES:
                # The best allowed one of the most probable is the best allowed one of all.
                likely = np.argpartition(logits, -count)[-count:] if count < logits.size else None
                if likely is not None and (token := _best_allowed(grammar, logits, likely)) is not None:
                    return token
        candidates = _masked(grammar, logits, np.arange(logits.size))
        allowed = np.ascontiguousarray(candidates[np.isfinite(candidates["logit"])])
        if not allowed.size:
            raise NumericError("the grammar allows no token of the vocabulary")
        if self._chain is None:
            return int(allowed["id"][np.argmax(allowed["logit"])])
        return self._chain.pick(allowed)

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()
        if self._grammar is not None:
            self._grammar.close()


def _masked(grammar: Grammar, logits: Logits, tokens: np.typing.NDArray[np.integer]) -> np.typing.NDArray[np.void]:
    candidates = np.zeros(len(tokens), dtype=Candidates)
    candidates["id"] = tokens
    candidates["logit"] = logits[tokens]
    grammar.mask(candidates)
    return candidates


def _best_allowed(grammar: Grammar, logits: Logits, tokens: np.typing.NDArray[np.integer]) -> int | None:
    candidates = _masked(grammar, logits, tokens)
    best = int(np.argmax(candidates["logit"]))
    return int(candidates["id"][best]) if np.isfinite(candidates["logit"][best]) else None
