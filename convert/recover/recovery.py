"""All blocks of a model, one after the other. START HERE for `--recover`.

A block gets the hidden states that the quantized blocks before it compute from calibration texts. It is trained to
produce the unquantized model's hidden states after this block, so that it also makes up for the errors before it.
Held-out chunks of these texts decide whether it got better. Each finished block is kept in a file.
"""

import hashlib
import json
import math
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
from ..plan import FilePlan, FindEncoded
from ..progress import OnProgress, part_of
from ..quantize.ggml import GgmlType
from ..quantize.quantizer import processors
from ..read.tensors import TOKEN_EMBD
from ..write.manifest import torch_versions
from .block import Array, Block, StoredTensors, embedded, read_rows, transformers_config

# The first ones decide whether a block got better.
_MAX_CHUNKS, _VALIDATION_CHUNKS = 400, 8
# Rises with every change of the training, so that older results are not used.
_VERSION = 1
_EPOCHS = 2
# Learning rates of levels (per mean gap between them), of scales (relative to the scale), and of norms and biases.
_LEVEL_RATE, _GROWTH_RATE, _VECTOR_RATE = 1e-3, 2.5e-4, 3e-4


def recover_blocks(
    plan: FilePlan,
    encoded: FindEncoded,
    *,
    reference: Path,
    texts: Texts,
    seed: int,
    folder: Path,
    progress: OnProgress,
) -> dict[str, Array]:
    """The trained tensors by name, as the file stores them: matrices of 4-bit levels, norms and biases.

    `encoded` gives the rounded matrices of the plan. `reference` is the BF16 model, whose vocabulary reads the texts.
    `folder` keeps the blocks of these texts and this seed. Raises ConvertError.
    """
    kinds = {info.name: info.kind for info in plan.infos}
    types = {name: kind.name for name, kind in kinds.items()}
    made_from = json.dumps([_VERSION, torch_versions(), types], sort_keys=True)
    work = folder / f"recovered-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    paths = [work / f"block-{number}.npz" for number in range(plan.model.config.num_hidden_layers)]
    kept = [read_arrays(path) for path in paths]
    tensors_trained: dict[str, Array] = {}
    if all(kept):
        for trained in kept:
            tensors_trained |= trained or {}
        return tensors_trained
    with LoadedVocabulary(reference) as vocabulary:
        tokens = chunks(texts, vocabulary, seed=seed, max_chunks=_MAX_CHUNKS)
    if len(tokens) <= _VALIDATION_CHUNKS:
        min_tokens = (_VALIDATION_CHUNKS + 1) * CHUNK_TOKENS
        raise ConvertError(f"{texts.name}: fewer than {min_tokens} tokens, which --recover needs")
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
    targets = embedded(tokens, *read_rows(embedding), embedding.columns)
    for number, path in enumerate(paths):
        part = part_of(progress, number / len(paths), (number + 1) / len(paths))
        report = partial(part, f"recovering block {number}")
        report(0.0)
        block = Block(config, number, plan.model.tensors)
        targets = block.outputs(targets)
        matrices = {name: rounded(name) for name in block.matrix_names}
        if (trained := kept[number]) is None:
            trained = _trained(block, matrices, hidden, targets, report)
            write_arrays(path, trained)
            block = Block(config, number, plan.model.tensors)
        block.replace(matrices | {name: (kinds[name], array) for name, array in trained.items()})
        hidden = block.outputs(hidden)
        tensors_trained |= trained
    return tensors_trained


def _trained(
    block: Block,
    matrices: StoredTensors,
    hidden: Sequence[Any],
    targets: Sequence[Any],
    report: Callable[[float], None],
) -> dict[str, Array]:
    """The trained tensors, or the rounded ones if these give nearer hidden states."""
    block.round(matrices)
    before, error = block.encode(), _error(block, hidden[:_VALIDATION_CHUNKS], targets[:_VALIDATION_CHUNKS])
    _train(block, hidden[_VALIDATION_CHUNKS:], targets[_VALIDATION_CHUNKS:], report)
    is_better = _error(block, hidden[:_VALIDATION_CHUNKS], targets[:_VALIDATION_CHUNKS]) < error
    return block.encode() if is_better else before


def _train(block: Block, inputs: Sequence[Any], targets: Sequence[Any], progress: Callable[[float], None]) -> None:
    """Trains a rounded block to give the target hidden states of each text. progress gets the share of steps."""
    rounded, vectors = block.rounded, block.vectors
    for vector in vectors:
        vector.requires_grad_()
    groups = [
        *({"params": [one.levels], "lr": _LEVEL_RATE * one.mean_gap} for one in rounded),
        {"params": [one.growth for one in rounded], "lr": _GROWTH_RATE},
        {"params": vectors, "lr": _VECTOR_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    steps = _EPOCHS * len(inputs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    draw = np.random.default_rng(0)
    for epoch in range(_EPOCHS):
        for place, at in enumerate(draw.permutation(len(inputs))):
            loss = _relative_error(block(inputs[at]), targets[at])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for one in rounded:
                one.clamp()
            schedule.step()
            progress((epoch + (place + 1) / len(inputs)) / _EPOCHS)


def _error(block: Block, inputs: Sequence[Any], targets: Sequence[Any]) -> float:
    pairs = zip(block.outputs(inputs), targets, strict=True)
    return sum(float(_relative_error(outputs, states)) for outputs, states in pairs) / len(targets)


def _relative_error(outputs: Any, targets: Any) -> Any:
    """The mean squared error, relative to each token's state, because the next block normalizes it."""
    return ((outputs - targets).square().mean(-1) / targets.square().mean(-1)).mean()
