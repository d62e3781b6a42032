"""A transformer block of a checkpoint in PyTorch, unquantized or as the model file stores it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from ..errors import ConvertError
from ..quantize.ggml import GgmlType, dequantized
from ..quantize.quantizer import FLOAT_TYPES
from ..read.config import Qwen2Config as SourceConfig
from ..read.tensors import ModelTensor
from .rounding import TABLES, RoundedLinear

Array = np.ndarray[Any, Any]
# By name, the type and the data as in the file, which are rows [rows, bytes] of a matrix or numbers of a vector.
StoredTensors = Mapping[str, tuple[GgmlType, Array]]


def transformers_config(config: SourceConfig) -> Qwen2Config:
    """What transformers needs to know of the checked config.json."""
    rope = config.rope.model_dump(exclude_none=True) | {"rope_theta": config.rope_base}
    sizes = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("max_position_embeddings", "rms_norm_eps"),
    )
    given = {name: getattr(config, name) for name in sizes}
    return Qwen2Config(**given, rope_parameters=rope, attn_implementation="sdpa")


def read_rows(tensor: ModelTensor) -> tuple[GgmlType, Array]:
    """The tensor's type and rows [rows, bytes], as the checkpoint has them."""
    rows = np.empty((tensor.rows, tensor.columns * tensor.source.dtype.nbytes), np.uint8)
    tensor.source.read_into(memoryview(rows).cast("B"), 0)
    return FLOAT_TYPES[tensor.source.dtype], rows


class Block:
    """Maps hidden states [tokens, hidden] to hidden states. It begins as the checkpoint has it."""

    def __init__(self, config: Qwen2Config, number: int, tensors: Sequence[ModelTensor]) -> None:
        self._layer = Qwen2DecoderLayer(config, number).requires_grad_(requires_grad=False)
        self._rotary = Qwen2RotaryEmbedding(config)
        prefix = f"model.layers.{number}."
        # The tensors by the name of the layer's parameter.
        self._tensors = {
            tensor.source.name.removeprefix(prefix): tensor
            for tensor in tensors
            if tensor.source.name.startswith(prefix)
        }
        self._rounded: dict[str, RoundedLinear] = {}
        for path, tensor in self._tensors.items():
            self._set(path, tensor, *read_rows(tensor))

    def __call__(self, hidden: Any) -> Any:
        batch, positions = hidden[None], torch.arange(len(hidden))[None]
        return self._layer(batch, position_embeddings=self._rotary(batch, positions))[0]

    def outputs(self, hidden: Sequence[Any]) -> list[Any]:
        """The block's outputs for the hidden states of each text, without gradients."""
        with torch.no_grad():
            return [self(one) for one in hidden]

    @property
    def matrix_names(self) -> list[str]:
        return [tensor.name for tensor in self._tensors.values() if tensor.is_quantizable]

    @property
    def rounded(self) -> list[RoundedLinear]:
        return list(self._rounded.values())

    @property
    def vectors(self) -> list[Any]:
        return [self._layer.get_parameter(path) for path, tensor in self._tensors.items() if not tensor.is_quantizable]

    def replace(self, stored: StoredTensors) -> None:
        """Replaces tensors by encoded ones, which cannot be trained."""
        for path, tensor in self._tensors.items():
            if tensor.name in stored:
                self._set(path, tensor, *stored[tensor.name])

    def round(self, stored: StoredTensors) -> None:
        """Replaces tensors by encoded ones. Those of a type of TABLES can then be trained."""
        for path, tensor in self._tensors.items():
            if tensor.name not in stored:
                continue
            kind, rows = stored[tensor.name]
            if kind in TABLES:
                name = path.removesuffix(".weight")
                linear = self._layer.get_submodule(name)
                self._rounded[tensor.name] = RoundedLinear(kind, linear.weight.data, rows, linear.bias)
                self._layer.set_submodule(name, self._rounded[tensor.name])
            else:
                self._set(path, tensor, kind, rows)

    def encode(self) -> dict[str, Array]:
        """The trainable tensors, as the file stores them. Raises ConvertError if ggml would read other numbers."""
        encoded: dict[str, Array] = {}
        for path, tensor in self._tensors.items():
            if not tensor.is_quantizable:
                encoded[tensor.name] = self._layer.get_parameter(path).detach().numpy().copy()
            elif (linear := self._rounded.get(tensor.name)) is not None:
                encoded[tensor.name] = rows = linear.encode()
                if not np.array_equal(dequantized(linear.kind, rows, tensor.columns), linear.weight().detach()):
                    raise ConvertError(f"{tensor.name}: {linear.kind.name} cannot hold the trained numbers")
        return encoded

    def _set(self, path: str, tensor: ModelTensor, kind: GgmlType, rows: Array) -> None:
        numbers = torch.from_numpy(dequantized(kind, rows, tensor.columns)).reshape(tensor.shape)
        self._layer.get_parameter(path).data = numbers


def embedded(texts: Sequence[list[int]], kind: GgmlType, rows: Array, columns: int) -> list[Any]:
    """The hidden states of texts before the first block, [tokens, columns]. `rows` are the encoded embedding's."""
    return [torch.from_numpy(dequantized(kind, rows[tokens], columns)) for tokens in texts]
