"""Logits that depend on a sequence's tokens alone. On a CPU, the last bits depend on the width of the batch, too."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_agent.engine.llama import Llama, Piece


class ExactModel:
    """Stands in for the model's numbers in one Llama; what is decoded, shared and cut is still the library's."""

    def __init__(self, llama: Llama, patch: pytest.MonkeyPatch) -> None:
        self._vocabulary = llama.vocabulary_size
        self._sequences: dict[int, list[int]] = {}
        self._rows: dict[int, tuple[int, ...]] = {}
        decode, share, cut = llama.decode, llama.share, llama.cut

        def decoded(pieces: Sequence[Piece], *, threads: int) -> list[int]:
            starts = decode(pieces, threads=threads)
            self._rows.clear()
            for piece, start in zip(pieces, starts, strict=True):
                tokens = self._sequences.setdefault(piece.seq_id, [])
                del tokens[piece.position :]
                for offset, token in enumerate(piece.tokens):
                    tokens.append(token)
                    self._rows[start + offset] = tuple(tokens)
            return starts

        def shared(source: int, target: int, length: int) -> None:
            share(source, target, length)
            self._sequences[target] = self._sequences[source][:length]

        def was_cut(seq_id: int, length: int) -> None:
            cut(seq_id, length)
            del self._sequences.get(seq_id, [])[length:]

        for name, function in (("decode", decoded), ("share", shared), ("cut", was_cut)):
            patch.setattr(llama, name, function)
        patch.setattr(llama, "logits", self.logits)
        patch.setattr(llama, "sample", self._sample)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        tokens = self._rows[row]
        seed = zlib.crc32(np.array(tokens, dtype=np.int32).tobytes())
        return np.random.default_rng(seed).normal(size=self._vocabulary).astype(np.float32)

    def _sample(self, chain: Any, row: int) -> int:
        return int(chain.pick(np.arange(self._vocabulary), self.logits(row)))
