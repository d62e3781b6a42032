"""llama.cpp's samplers: the choice among candidates, and what a grammar allows. Imports llama_cpp, as llama.py does."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Self

import llama_cpp
import numpy as np
import numpy.typing as npt

# struct llama_token_data
Candidates = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class GrammarError(Exception):
    """llama.cpp does not take this grammar."""


class SamplerChain:
    """llama.cpp's samplers for one request, in llama.cpp's usual order. Close it with the request."""

    def __init__(self, *, top_k: int, top_p: float, min_p: float, temperature: float, seed: int) -> None:
        self.pointer: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        links: list[Any] = []
        if top_k > 0:
            links.append(llama_cpp.llama_sampler_init_top_k(top_k))
        if top_p < 1.0:
            links.append(llama_cpp.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0.0:
            links.append(llama_cpp.llama_sampler_init_min_p(min_p, 1))
        links.append(llama_cpp.llama_sampler_init_temp(temperature))
        links.append(llama_cpp.llama_sampler_init_dist(seed))
        for link in links:
            llama_cpp.llama_sampler_chain_add(self.pointer, link)

    def pick(self, candidates: npt.NDArray[np.void]) -> int:
        """One of these candidates (dtype Candidates, C-contiguous; reordered)."""
        array = _candidate_array(candidates)
        llama_cpp.llama_sampler_apply(self.pointer, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_sampler_free(self.pointer)
            self.pointer = None


class Grammar:
    """State of a grammar after the tokens accepted so far. Never part of a chain: masking a vocabulary costs 18 ms."""

    is_quick = True

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._one = llama_cpp.llama_token_data()
        self._just_one = ctypes.byref(
            llama_cpp.llama_token_data_array(data=ctypes.pointer(self._one), size=1, selected=-1, sorted=False)
        )

    def clone(self) -> Self:
        """An independent copy in the same state."""
        return type(self)(llama_cpp.llama_sampler_clone(self._pointer))

    def allows(self, token: int) -> bool:
        """Whether the next token may be this one; some microseconds."""
        self._one.id, self._one.logit = ctypes.c_int32(token), 0.0
        llama_cpp.llama_sampler_apply(self._pointer, self._just_one)
        return math.isfinite(self._one.logit)

    def mask(self, candidates: npt.NDArray[np.void]) -> None:
        """Logits of candidates (dtype Candidates, C-contiguous) that may not come next become minus infinity."""
        array = _candidate_array(candidates)
        llama_cpp.llama_sampler_apply(self._pointer, ctypes.byref(array))

    def accept(self, token: int) -> None:
        """Take the token. Raises ValueError for one that is not allowed: llama.cpp would end the process."""
        if not self.allows(token):
            raise ValueError(f"the grammar does not allow token {token} here")
        llama_cpp.llama_sampler_accept(self._pointer, token)

    def close(self) -> None:
        if self._pointer:
            llama_cpp.llama_sampler_free(self._pointer)
            self._pointer = None


def _candidate_array(candidates: npt.NDArray[np.void]) -> Any:
    data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
