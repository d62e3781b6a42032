"""A Qwen2 decoder in PyTorch, parameter names as in Hugging Face checkpoints; config is that of config.json."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

Config = dict[str, Any]


def _norm(config: Config) -> nn.RMSNorm:
    return nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding with halves as pairs (NEOX order); x is (batch, heads, tokens, head size)."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, self.heads, self.kv_heads = (
            config[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        self.head_size = hidden // self.heads
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_size)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.head_size)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        split = (batch, tokens, -1, self.head_size)
        query = _rotate(self.q_proj(x).view(split).transpose(1, 2), cosine, sine)
        key = _rotate(self.k_proj(x).view(split).transpose(1, 2), cosine, sine)
        value = self.v_proj(x).view(split).transpose(1, 2)
        groups = self.heads // self.kv_heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        # Sequences are padded on the right, so the causal mask alone keeps padding out of every real token.
        # Written out, because PyTorch's own attention takes twice the time at this size on a CPU.
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5
        future = torch.full((tokens, tokens), float("-inf"), dtype=scores.dtype).triu(1)
        mixed = torch.softmax(scores + future, dim=-1).to(value.dtype) @ value
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen2(nn.Module):
    """Token ids (batch, tokens) to final hidden states; `logits` maps those to the vocabulary by the tied embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = _norm(config)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.04 / (2 * len(self.layers)) ** 0.5 if is_residual else 0.04)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        head_size, theta = self.config["hidden_size"] // self.config["num_attention_heads"], self.config["rope_theta"]
        pairs = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
        angles = torch.outer(torch.arange(ids.shape[1], dtype=torch.float32), theta**-pairs)
        angles = torch.cat((angles, angles), dim=-1)
        x = self.embed_tokens(ids)
        cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden, self.embed_tokens.weight)
