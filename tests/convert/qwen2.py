"""Qwen2 in numpy, as transformers defines it, which is what a converted model has to compute."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Weights = dict[str, npt.NDArray[Any]]


def logits(config: dict[str, Any], tensors: Weights, tokens: list[int]) -> Floats:
    """Logits [tokens, vocabulary] after each token. `config` is config.json; `tensors` are bits of BF16 by name."""
    weights = {name: (bits.astype(np.uint32) << 16).view(np.float32) for name, bits in tensors.items()}
    heads, heads_kv = config["num_attention_heads"], config["num_key_value_heads"]
    cosine, sine = _rotation(config, len(tokens))
    embedding = weights["model.embed_tokens.weight"]
    states = embedding[tokens]
    for layer in range(config["num_hidden_layers"]):
        own = {
            name.removeprefix(f"model.layers.{layer}."): values
            for name, values in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        inputs = _norm(states, own["input_layernorm.weight"], config)
        query, key, value = (
            _heads(inputs @ own[f"self_attn.{part}_proj.weight"].T + own[f"self_attn.{part}_proj.bias"], number)
            for part, number in (("q", heads), ("k", heads_kv), ("v", heads_kv))
        )
        query, key = query * cosine + _half_turned(query) * sine, key * cosine + _half_turned(key) * sine
        key, value = (np.repeat(part, heads // heads_kv, axis=0) for part in (key, value))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = _softmax(np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf))
        attended = (shares @ value).transpose(1, 0, 2).reshape(len(tokens), -1)
        states = states + attended @ own["self_attn.o_proj.weight"].T
        inputs = _norm(states, own["post_attention_layernorm.weight"], config)
        gate = inputs @ own["mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (inputs @ own["mlp.up_proj.weight"].T)
        states = states + inner @ own["mlp.down_proj.weight"].T
    output = embedding if config["tie_word_embeddings"] else weights["lm_head.weight"]
    found: Floats = _norm(states, weights["model.norm.weight"], config) @ output.T
    return found


def divergence(reference: Floats, other: Floats) -> float:
    """Mean KL divergence of two models by their logits, in nats."""
    probabilities = _softmax(reference.astype(np.float64))
    difference = np.log(probabilities) - np.log(_softmax(other.astype(np.float64)))
    return float((probabilities * difference).sum(axis=-1).mean())


def _rotation(config: dict[str, Any], length: int) -> tuple[Floats, Floats]:
    """Cosines and sines [length, head size]. YaRN is arXiv 2309.00071, as transformers' modeling_rope_utils has it."""
    size, base = config["hidden_size"] // config["num_attention_heads"], config["rope_theta"]
    plain = base ** -(np.arange(0, size, 2) / size)
    scaling = config.get("rope_scaling")
    if scaling is None:
        frequencies, factor = plain, 1.0
    else:
        original = scaling["original_max_position_embeddings"]

        def place(turns: float) -> float:
            return float(size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)))

        low, high = max(0, math.floor(place(32))), min(size - 1, math.ceil(place(1)))
        ramp = np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
        frequencies = plain / scaling["factor"] * ramp + plain * (1 - ramp)
        factor = 0.1 * math.log(scaling["factor"]) + 1
    angles = np.outer(np.arange(length), np.tile(frequencies, 2))
    return (factor * np.cos(angles)).astype(np.float32), (factor * np.sin(angles)).astype(np.float32)


def _heads(values: Floats, number: int) -> Floats:
    """The values by head, [heads, tokens, head size]."""
    return values.reshape(len(values), number, -1).transpose(1, 0, 2)


def _half_turned(values: Floats) -> Floats:
    first, second = np.split(values, 2, axis=-1)
    return np.concatenate([-second, first], axis=-1)


def _norm(states: Floats, weight: Floats, config: dict[str, Any]) -> Floats:
    found: Floats = states / np.sqrt((states**2).mean(axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight
    return found


def _softmax(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: npt.NDArray[Any] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return found
