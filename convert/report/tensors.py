"""PURE. A model's tensors sorted by layer and kind, as the page shows them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .quality import Tensor

KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
APART = ("token_embd", "output")
OTHERS = "others"
_IN_LAYER = re.compile(rf"blk\.(\d{{1,4}})\.({'|'.join(KINDS)})\.weight", re.ASCII)


@dataclass(frozen=True, slots=True)
class SortedTensors:
    """by_layer: the matrices by kind and layer; apart: embedding and output by APART's names; others: the rest."""

    by_layer: Mapping[tuple[str, int], Tensor]
    apart: Mapping[str, Tensor]
    others: tuple[Tensor, ...]

    def of_kind(self, kind: str) -> list[Tensor]:
        """All tensors of one of KINDS, APART or OTHERS."""
        if kind == OTHERS:
            return list(self.others)
        if kind in self.apart:
            return [self.apart[kind]]
        return [tensor for (found, _), tensor in self.by_layer.items() if found == kind]


def sort_tensors(tensors: Iterable[Tensor]) -> SortedTensors:
    """Each tensor where its name puts it."""
    by_layer: dict[tuple[str, int], Tensor] = {}
    apart: dict[str, Tensor] = {}
    others: list[Tensor] = []
    for tensor in tensors:
        name = tensor.name.removesuffix(".weight")
        if found := _IN_LAYER.fullmatch(tensor.name):
            by_layer.setdefault((found[2], int(found[1])), tensor)
        elif name in APART:
            apart.setdefault(name, tensor)
        else:
            others.append(tensor)
    return SortedTensors(by_layer, apart, tuple(others))
