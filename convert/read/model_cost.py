"""A finished model by what it costs: its GGUF header, read as the agent reads it."""

from pathlib import Path

from edge_agent.gguf.header import Header, HeaderError, TensorInfo, read_header
from edge_agent.gguf.model import read_model_facts
from edge_agent.gguf.qwen2 import EMBEDDING, OUTPUT, read_sizes
from edge_agent.models.bundle import MODEL_FILE

from ..board_cost import Matrix, ModelCost
from ..errors import ConvertError, printable
from ..weights.ggml import GgmlType
from ..weights.mix import mix_name


def read_cost(path: Path) -> ModelCost:
    """Of a bundle or a .gguf. Raises ConvertError if it is none that the agent opens, OSError."""
    gguf = path / MODEL_FILE if path.is_dir() else path
    try:
        facts, header = read_model_facts(gguf), read_header(gguf)
        sizes = read_sizes(header)
    except HeaderError as error:
        raise ConvertError(f"{printable(str(gguf))}: {error}") from error
    output = OUTPUT if any(tensor.name == OUTPUT for tensor in header.tensors) else EMBEDDING
    return ModelCost(
        name=path.name if path.is_dir() else path.stem,
        types=_types(header),
        matrices=tuple(
            _matrix(tensor, output)
            for tensor in header.tensors
            if len(tensor.shape) > 1 and (tensor.name == output or tensor.name != EMBEDDING)
        ),
        kv_elements=2 * sizes.blocks * sizes.head * sizes.heads_kv,
        feed_forward=sizes.feed_forward,
        vocabulary=facts.tokens,
        context_length=sizes.context,
    )


def _matrix(tensor: TensorInfo, output: str) -> Matrix:
    columns, rows = tensor.shape[:2]
    kind = GgmlType[tensor.type.name] if tensor.type.name in GgmlType.__members__ else None
    return Matrix(rows, rows * columns, tensor.nbytes, kind, is_output=tensor.name == output)


def _types(header: Header) -> str:
    nbytes: dict[str, int] = {}
    for tensor in header.tensors:
        if len(tensor.shape) > 1:
            nbytes[tensor.type.name] = nbytes.get(tensor.type.name, 0) + tensor.nbytes
    return mix_name(nbytes)
