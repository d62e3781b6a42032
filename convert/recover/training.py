"""Trains a rounded block to give the wanted hidden states."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .block import Block

_EPOCHS = 2
# Levels in gaps between two of them, scales in proportion, norms and biases in their own unit.
_LEVEL_RATE, _GROWTH_RATE, _VECTOR_RATE = 1e-3, 2.5e-4, 3e-4


def train_block(block: Block, inputs: Sequence[Any], wanted: Sequence[Any], progress: Callable[[float], None]) -> None:
    """Trains a rounded block. inputs, wanted: hidden states of each text; progress: called with the share of steps."""
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
            loss = _relative_error(block(inputs[at]), wanted[at])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for one in rounded:
                one.clamp()
            schedule.step()
            progress((epoch + (place + 1) / len(inputs)) / _EPOCHS)


def error_of(block: Block, inputs: Sequence[Any], wanted: Sequence[Any]) -> float:
    """How far its outputs are from the wanted ones."""
    pairs = zip(block.outputs(inputs), wanted, strict=True)
    return sum(float(_relative_error(outputs, states)) for outputs, states in pairs) / len(wanted)


def _relative_error(outputs: Any, wanted: Any) -> Any:
    """The mean squared error, relative to each token's state: the next block normalizes it."""
    return ((outputs - wanted).square().mean(-1) / wanted.square().mean(-1)).mean()
