"""llama.cpp's samplers: the choice among candidates, and what a grammar allows. Imports llama_cpp, as llama.py does."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

# struct llama_token_data
Candidates = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


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


def _candidate_array(candidates: npt.NDArray[np.void]) -> Any:
    data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
