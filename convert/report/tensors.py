"""A model's tensors by layer and kind, as the page shows them."""

import re
from collections.abc import Iterable

from .quality import TensorQuality

KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
SINGLE = ("token_embd", "output")
OTHERS = "others"
_IN_LAYER = re.compile(rf"blk\.(\d{{1,4}})\.({'|'.join(KINDS)})\.weight", re.ASCII)


def by_layer(tensors: Iterable[TensorQuality]) -> dict[tuple[str, int], TensorQuality]:
    """The matrices of the layers by kind and layer."""
    matches = ((_IN_LAYER.fullmatch(tensor.name), tensor) for tensor in tensors)
    return {(match[2], int(match[1])): tensor for match, tensor in matches if match}


def single(tensors: Iterable[TensorQuality]) -> dict[str, TensorQuality]:
    """Embedding and output matrix by the names in SINGLE."""
    names = {f"{name}.weight": name for name in SINGLE}
    return {names[tensor.name]: tensor for tensor in tensors if tensor.name in names}


def by_kind(tensors: Iterable[TensorQuality]) -> dict[str, list[TensorQuality]]:
    """All tensors by SINGLE, KINDS and OTHERS, in this order; kinds without tensors are left out."""
    found: dict[str, list[TensorQuality]] = {kind: [] for kind in (*SINGLE, *KINDS, OTHERS)}
    for tensor in tensors:
        match = _IN_LAYER.fullmatch(tensor.name)
        name = match[2] if match else tensor.name.removesuffix(".weight")
        found[name if name in found else OTHERS].append(tensor)
    return {kind: some for kind, some in found.items() if some}
