"""All blocks of a model, one after the other. START HERE for `--recover`.

A block gets the hidden states of calibration texts as the quantized blocks before it give them. It is trained to give
what the unquantized model has after this block, so that it also makes up for the errors before it. Other chunks of
these texts decide whether it got better. Each block that is done is kept in a file.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConvertError
from ..measure.cache import read_arrays, write_arrays
from ..measure.runner import CHUNK_TOKENS, LoadedVocabulary
from ..measure.texts import Texts, chunks
from ..plan import Encoded, FilePlan
from ..progress import OnProgress, part_of
from ..quantize.ggml import GgmlType
from ..quantize.quantizer import processors
from ..read.tensors import TOKEN_EMBD
from ..write.manifest import torch_versions
from .block import Array, Block, StoredTensors, embedded, read_rows, transformers_config
from .training import error_of, train_block

# The first ones decide whether a block got better.
_MOST_CHUNKS, _JUDGING_CHUNKS = 400, 8
# Rises with every change of the training: older results are then not used.
_VERSION = 1


def recover_blocks(
    plan: FilePlan,
    encoded: Encoded,
    *,
    reference: Path,
    texts: Texts,
    seed: int,
    folder: Path,
    progress: OnProgress,
) -> dict[str, Array]:
    """By name, the trained tensors, as the file has them: matrices of 4-bit levels, norms and biases.

    encoded: gives the rounded matrices of the plan. reference: the BF16 model, whose vocabulary reads the texts.
    folder: keeps the blocks of these texts and this seed. Raises ConvertError.
    """
    kinds = {info.name: info.kind for info in plan.infos}
    types = {name: kind.name for name, kind in kinds.items()}
    made_from = json.dumps([_VERSION, torch_versions(), types], sort_keys=True)
    work = folder / f"recovered-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    paths = [work / f"block-{number}.npz" for number in range(plan.model.config.num_hidden_layers)]
    kept = [read_arrays(path) for path in paths]
    found: dict[str, Array] = {}
    if all(kept):
        for trained in kept:
            found |= trained or {}
        return found
    with LoadedVocabulary(reference) as vocabulary:
        tokens = chunks(texts, vocabulary, seed=seed, most=_MOST_CHUNKS)
    if len(tokens) <= _JUDGING_CHUNKS:
        least = (_JUDGING_CHUNKS + 1) * CHUNK_TOKENS
        raise ConvertError(f"{texts.name}: fewer than {least} tokens, which --recover needs")
    tensors = {tensor.name: tensor for tensor in plan.model.tensors}

    def rounded(name: str) -> tuple[GgmlType, Array]:
        data = encoded(name, kinds[name])
        assert data is not None, name
        # PyTorch wants data that it may write to.
        return kinds[name], np.frombuffer(bytearray(data), np.uint8).reshape(tensors[name].rows, -1)

    torch.set_num_threads(processors())
    torch.use_deterministic_algorithms(mode=True)
    config = transformers_config(plan.model.config)
    embedding = tensors[TOKEN_EMBD]
    hidden = embedded(tokens, *rounded(TOKEN_EMBD), embedding.columns)
    wanted = embedded(tokens, *read_rows(embedding), embedding.columns)
    for number, path in enumerate(paths):
        part = part_of(progress, number / len(paths), (number + 1) / len(paths))
        report = partial(part, f"recovering block {number}")
        report(0.0)
        block = Block(config, number, plan.model.tensors)
        wanted = block.outputs(wanted)
        matrices = {name: rounded(name) for name in block.matrix_names}
        if (trained := kept[number]) is None:
            trained = _trained(block, matrices, hidden, wanted, report)
            write_arrays(path, trained)
            block = Block(config, number, plan.model.tensors)
        block.replace(matrices | {name: (kinds[name], array) for name, array in trained.items()})
        hidden = block.outputs(hidden)
        found |= trained
    return found


def _trained(
    block: Block,
    matrices: StoredTensors,
    hidden: Sequence[Any],
    wanted: Sequence[Any],
    report: Callable[[float], None],
) -> dict[str, Array]:
    """The trained tensors, or the rounded ones if these give nearer hidden states."""
    block.round(matrices)
    before, error = block.encode(), error_of(block, hidden[:_JUDGING_CHUNKS], wanted[:_JUDGING_CHUNKS])
    train_block(block, hidden[_JUDGING_CHUNKS:], wanted[_JUDGING_CHUNKS:], report)
    is_better = error_of(block, hidden[:_JUDGING_CHUNKS], wanted[:_JUDGING_CHUNKS]) < error
    return block.encode() if is_better else before
