"""A block of a model as Q4_0, trained through the rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from transformers import Qwen2ForCausalLM

MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def train_block(
    checkpoint: Path,
    model: Path,
    number: int,
    learnt: Sequence[list[int]],
    others: Sequence[list[int]],
    epochs: int,
    rate: float,
) -> tuple[float, float]:
    """The squared error of the block's outputs for other texts, as a share of what it adds: before and after."""
    network = Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).model.requires_grad_(False)
    stored = _read_q4_0(model)
    for at, layer in enumerate(network.layers[:number]):
        for name, short in MATRICES.items():
            scales, levels = stored[f"blk.{at}.{short}.weight"]
            layer.get_submodule(name).weight.data = torch.from_numpy(scales * levels).flatten(1)
    block = network.layers[number]
    inputs = [_calls(network, number, texts) for texts in (learnt, others)]
    with torch.no_grad():
        outputs = [[_output(block, call) for call in calls] for calls in inputs]
    for name, short in MATRICES.items():
        linear = block.get_submodule(name)
        rounded = RoundedLinear(linear, *map(torch.from_numpy, stored[f"blk.{number}.{short}.weight"]))
        block.set_submodule(name, rounded)
    added = sum(float((after - call[0]).square().sum()) for call, after in zip(inputs[1], outputs[1], strict=True))

    def wrong() -> float:
        with torch.no_grad():
            pairs = zip(inputs[1], outputs[1], strict=True)
            return sum(float((_output(block, call) - output).square().sum()) for call, output in pairs) / added

    before = wrong()
    _fit(block, inputs[0], outputs[0], epochs, rate)
    return before, wrong()


class RoundedLinear(torch.nn.Module):  # type: ignore[misc]
    """A matrix whose numbers are levels from -8 to 7 times the scale of each 32 of them, as in Q4_0.

    Levels are trained as numbers that are rounded; gradients pass the rounding. They start at the original, moved
    just so far that they round to the stored level.
    """

    def __init__(self, linear: Any, scales: Any, levels: Any) -> None:
        super().__init__()
        self.bias = linear.bias
        original = linear.weight.data.unflatten(1, (-1, levels.shape[-1])) / scales.where(scales != 0, 1)
        self.levels = torch.nn.Parameter(original.clamp(levels - 0.49, levels + 0.49).clamp(-8, 7))
        self.scales = scales
        # Relative, so that one rate fits all.
        self.growth = torch.nn.Parameter(torch.zeros_like(scales))

    def forward(self, inputs: Any) -> Any:
        return torch.nn.functional.linear(inputs, Rounding.apply(self.levels, self.growth, self.scales), self.bias)


class Rounding(torch.autograd.Function):  # type: ignore[misc]
    """Rounded levels times grown scales, which are F16 in the file. Gradients pass both roundings."""

    @staticmethod
    def forward(context: Any, levels: Any, growth: Any, scales: Any) -> Any:
        rounded, grown = levels.round(), (scales * (1 + growth)).half().float()
        context.save_for_backward(rounded, grown, scales)
        return (rounded * grown).flatten(1)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, Any, None]:
        rounded, grown, scales = context.saved_tensors
        gradient = gradient.view(rounded.shape)
        return gradient * grown, (gradient * rounded).sum(-1, keepdim=True) * scales, None


def _read_q4_0(model: Path) -> dict[str, tuple[Any, Any]]:
    """By matrix: scales [rows, blocks, 1] and levels [rows, blocks, 32]."""
    found = {}
    for tensor in GGUFReader(model).tensors:
        if tensor.tensor_type.name == "Q4_0":
            data = np.asarray(tensor.data).reshape(len(tensor.data), -1, 18)
            scales = data[..., :2].copy().view(np.float16).astype(np.float32)
            levels = np.concatenate((data[..., 2:] & 15, data[..., 2:] >> 4), axis=-1)
            found[tensor.name] = scales, levels.astype(np.float32) - 8
    if not found:
        raise SystemExit(f"{model}: holds no matrix as Q4_0")
    return found


def _calls(network: Any, number: int, texts: Sequence[list[int]]) -> list[tuple[Any, dict[str, Any]]]:
    """What a block is called with for each text: the hidden states, and the rest."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    block = network.layers[number]
    hook = block.register_forward_pre_hook(lambda _block, words, more: calls.append((words[0], more)), with_kwargs=True)
    # The blocks behind it are not run.
    layers, network.layers = network.layers, network.layers[: number + 1]
    with torch.no_grad():
        for tokens in texts:
            network(torch.tensor([tokens]), use_cache=False)
    network.layers = layers
    hook.remove()
    return calls


def _output(block: Any, call: tuple[Any, dict[str, Any]]) -> Any:
    found = block(call[0], **call[1])
    return found[0] if isinstance(found, tuple) else found


def _fit(
    block: Any, calls: Sequence[tuple[Any, dict[str, Any]]], outputs: Sequence[Any], epochs: int, rate: float
) -> None:
    rounded = [block.get_submodule(name) for name in MATRICES]
    groups = [
        {"params": [one.levels for one in rounded], "lr": rate},
        {"params": [one.growth for one in rounded], "lr": rate / 20},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    steps = epochs * len(calls)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    draw = np.random.default_rng(0)
    for _ in range(epochs):
        for at in draw.permutation(len(calls)):
            loss = (_output(block, calls[at]) - outputs[at]).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for one in rounded:
                one.levels.data.clamp_(-8, 7)
            schedule.step()
