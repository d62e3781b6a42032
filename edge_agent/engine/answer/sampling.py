"""The choice of the next token: greedy or by llama.cpp's samplers, held to what may come next."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_agent.core.protocol import Sampling
from edge_agent.engine.answer.first_bytes import Tokens
from edge_agent.engine.llama import Llama, Logits, NumericError
from edge_agent.engine.samplers import Candidates, Grammar, SamplerChain

# Most tokens that are refused have an allowed one close behind. A grammar takes 0.4 ms to mask 4096 candidates, and 17
# for all of a vocabulary of 152 thousand; a slot ten times as long.
_FEW, _MANY = 128, 4096
# Logits so close to the best, some thousands, are found in less time than it takes to find the 128 best among all.
_CLOSE = 8.0
# The last 32-bit number means "random" to llama.cpp.
_SEEDS = 2**32 - 1


class Constraint(Protocol):
    """What the next token may be: a grammar, or a slot of a plan. Of a token that it allows it allows the beginning."""

    is_quick: bool
    """Whether it masks hundreds of tokens in the time in which the most probable ones are found."""

    def allows(self, token: int) -> bool: ...

    def mask(self, candidates: npt.NDArray[np.void]) -> None:
        """Logits of candidates (dtype Candidates, C-contiguous) that may not come next become minus infinity."""
        ...


class TokenPicker:
    """Picks the tokens of one request. Close it with the request.

    grammar: a clone of its own, which holds `pick`; the picker closes it.
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
        if self._grammar is None:
            return self._pick_any(row, self._llama.logits(row))
        token = self.pick_allowed(row, self._grammar)
        self._grammar.accept(token)
        return token

    def pick_allowed(self, row: int, constraint: Constraint) -> int:
        """The next token after this row that the constraint allows. Raises NumericError.

        Sampled, it comes from the allowed ones among the 128 most probable, or of more if there are none.
        """
        logits = self._llama.logits(row)
        token = self._pick_any(row, logits)
        if constraint.allows(token):
            return token
        if self._chain is None:
            close = np.flatnonzero(logits > logits[token] - _CLOSE)
            ordered: list[int] = close[np.argsort(-logits[close])].tolist()
            for likely in ordered[:_FEW]:
                if constraint.allows(likely):
                    return likely
        for among in self._likely(constraint, logits):
            found = self._pick_masked(constraint, logits, among)
            if found is not None:
                return found
        raise NumericError("no token of the vocabulary is allowed")

    def _likely(self, constraint: Constraint, logits: Logits) -> Iterator[npt.NDArray[np.integer]]:
        """Tokens to pick from: the next ones where nothing of these is allowed, at last all that may be."""
        if self._chain is not None and not constraint.is_quick:
            yield _most_probable(logits, _FEW)
        possible = self._llama.first_bytes.possible(lambda tokens: _allowed(constraint, tokens))
        for count in (_FEW, _MANY, possible.size):
            yield possible[_most_probable(logits[possible], count)]

    def pick_among(self, row: int, tokens: Sequence[int]) -> int:
        """One of these tokens after this row. Raises NumericError."""
        logits = self._llama.logits(row)[np.asarray(tokens, dtype=np.intp)]
        return tokens[int(np.argmax(logits))] if self._chain is None else self._chain.pick(_candidates(tokens, logits))

    def _pick_any(self, row: int, logits: Logits) -> int:
        return int(np.argmax(logits)) if self._chain is None else self._llama.sample(self._chain, row)

    def _pick_masked(self, constraint: Constraint, logits: Logits, tokens: npt.NDArray[np.integer]) -> int | None:
        candidates = _candidates(tokens, logits[tokens])
        constraint.mask(candidates)
        allowed = np.ascontiguousarray(candidates[np.isfinite(candidates["logit"])])
        if not allowed.size:
            return None
        return int(allowed["id"][np.argmax(allowed["logit"])]) if self._chain is None else self._chain.pick(allowed)

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()
        if self._grammar is not None:
            self._grammar.close()


def _most_probable(logits: Logits, count: int) -> npt.NDArray[np.intp]:
    """The places of so many, or of all if there are fewer."""
    if count >= logits.size:
        return np.arange(logits.size)
    close = np.flatnonzero(logits > np.max(logits) - _CLOSE)
    if close.size < count:
        return np.argpartition(logits, -count)[-count:]
    return close[np.argpartition(logits[close], -count)[-count:]]


def _allowed(constraint: Constraint, tokens: Tokens) -> npt.NDArray[np.bool_]:
    candidates = _candidates(tokens, np.zeros(tokens.size, dtype=np.float32))
    constraint.mask(candidates)
    return np.isfinite(candidates["logit"])


def _candidates(tokens: Sequence[int] | npt.NDArray[np.integer], logits: Logits) -> npt.NDArray[np.void]:
    candidates = np.zeros(len(tokens), dtype=Candidates)
    candidates["id"] = tokens
    candidates["logit"] = logits
    return candidates
