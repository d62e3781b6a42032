"""PURE. The sizes of Qwen2.5 by their published shapes, for who has no checkpoint at hand yet."""

from .read.config import ModelConfig, parse_config

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, vocab_size, tied: the
# config.json of Qwen/Qwen2.5-0.5B-Instruct and its larger siblings.
_SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
}


def family() -> dict[str, ModelConfig]:
    """By size."""
    return {name: _config(*shape) for name, shape in _SHAPES.items()}


def _config(*shape: int) -> ModelConfig:
    hidden, inner, layers, heads, kv, vocabulary, tied = shape
    return parse_config(
        {
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "vocab_size": vocabulary,
            "tie_word_embeddings": bool(tied),
            "max_position_embeddings": 32768,
        }
    )
