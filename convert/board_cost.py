"""PURE. What a model costs on a board: bytes that a token reads, copies of weights in memory, and what comes beside."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .conversion import Plan
from .read.config import ModelConfig
from .read.tensors import OUTPUT, TOKEN_EMBD, TensorShape, tensor_shapes
from .tune.candidates import Target, is_repacked
from .weights.ggml import GgmlType, row_bytes
from .weights.recipe import Quantization, tensor_types

_KV_BYTES = 2  # F16
_LOGIT_BYTES = 4
# Sequences of the engine beside those that answer: branches of labels, prefixes, an idle one (engine/llama_engine.py).
_SPARE_SEQUENCES = 15
_STEP_ROWS = 256
# Measured here with `python -m rigs.quality.memory`: Python, numpy and llama.cpp without a model; a token's text with
# its place in maps; the agent beside its worker, with the process that renders templates.
WORKER_BYTES, TOKEN_TEXT_BYTES, AGENT_BYTES = 35_000_000, 175, 60_000_000 + 25_000_000


@dataclass(frozen=True, slots=True)
class Matrix:
    """One that each token is multiplied with. kind: None = a type that the converter does not write."""

    rows: int
    elements: int
    nbytes: int
    kind: GgmlType | None
    is_output: bool


@dataclass(frozen=True, slots=True)
class ModelCost:
    """A model by what it costs. kv_elements: of keys and values together, per token."""

    name: str
    types: str
    matrices: tuple[Matrix, ...]
    kv_elements: int
    feed_forward: int
    vocabulary: int
    context_length: int

    @property
    def bytes_per_token(self) -> int:
        """What a decode step reads of the matrices: of an embedding that is no output matrix one row only."""
        return sum(matrix.nbytes for matrix in self.matrices)

    def weights(self, *, with_output: bool = True) -> int:
        """Multiplications per token; in a prompt only its last token meets the output matrix."""
        return sum(matrix.elements for matrix in self.matrices if with_output or not matrix.is_output)

    def copied_bytes(self, target: Target) -> int:
        """Of the matrices, in memory that is not the file's: copies in the layout of fast kernels."""
        return _copied(self.matrices, target)

    def cache_bytes(self, context_tokens: int) -> int:
        """Keys and values of all requests together: they share `context_tokens`, however many run."""
        return context_tokens * self.kv_elements * _KV_BYTES

    def rest_bytes(self, max_active: int) -> int:
        """Of the worker beside weights, keys and values: its program, the vocabulary, logits, a step's buffers."""
        # Twice: for who reads them, and in the step that makes them.
        logits = (max_active + _SPARE_SEQUENCES) * self.vocabulary * _LOGIT_BYTES
        step = _STEP_ROWS * 2 * self.feed_forward * _LOGIT_BYTES
        return WORKER_BYTES + self.vocabulary * TOKEN_TEXT_BYTES + 2 * logits + step


def cost_of_shape(name: str, config: ModelConfig, quantization: Quantization) -> ModelCost:
    """Of a model that is only known by its configuration."""
    shapes = tensor_shapes(config)
    types = tensor_types(quantization, config, shapes)
    return ModelCost(
        name=name,
        types=quantization.value.upper(),
        matrices=tuple(_matrices(config, shapes, types)),
        kv_elements=2 * config.block_count * config.kv_length,
        feed_forward=config.feed_forward_length,
        vocabulary=config.vocab_size,
        context_length=config.context_length,
    )


def _matrices(config: ModelConfig, shapes: Iterable[TensorShape], types: Mapping[str, GgmlType]) -> Iterator[Matrix]:
    output = TOKEN_EMBD if config.tied_embeddings else OUTPUT
    for shape in shapes:
        if shape.is_quantizable and (config.tied_embeddings or shape.name != TOKEN_EMBD):
            kind = types[shape.name]
            nbytes = shape.rows * row_bytes(kind, shape.columns)
            yield Matrix(shape.rows, shape.rows * shape.columns, nbytes, kind, is_output=shape.name == output)


def _of_plan(plan: Plan) -> Iterator[Matrix]:
    return _matrices(plan.config, plan.tensors, {info.name: info.kind for info in plan.infos})


def bytes_per_token(plan: Plan) -> int:
    """As ModelCost has it."""
    return sum(matrix.nbytes for matrix in _of_plan(plan))


def ram_bytes(plan: Plan, target: Target) -> int:
    """As ModelCost.copied_bytes."""
    return _copied(_of_plan(plan), target)


def _copied(matrices: Iterable[Matrix], target: Target) -> int:
    return sum(m.nbytes for m in matrices if m.kind is not None and is_repacked(target, m.kind, m.rows))
