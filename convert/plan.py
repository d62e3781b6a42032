"""The plan of a GGUF file: every byte but the tensors' data, decided before anything is written."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from gguf import size_label

from .agent import HeaderError, read_model_facts
from .errors import CheckpointError
from .progress import OnProgress
from .quantize import ggml
from .quantize.ggml import GgmlType
from .quantize.quantizer import encode_tensor, processors
from .quantize.recipe import Quantization, tensor_types
from .quantize.targets import Target, is_repacked
from .read.model import SourceModel
from .read.tensors import OUTPUT, TOKEN_EMBD, ModelTensor
from .write import gguf_file

DEFAULT_NAME = "model"
# What a prediction of a board's memory assumes: the context, and what agent, worker and vocabulary add to the model.
CONTEXT_TOKENS, _PROGRAMS_BYTES = 4096, 170_000_000
# Finds the data of a tensor that is already encoded as this type; None if it has yet to be encoded.
FindEncoded = Callable[[str, GgmlType], bytes | None]


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A model with the types of its tensors."""

    model: SourceModel
    quantization: Quantization
    name: str
    licence: str | None
    infos: list[gguf_file.PlannedTensor]  # In the order of model.tensors.

    @property
    def entries(self) -> list[gguf_file.Entry]:
        parameters = sum(prod(tensor.shape) for tensor in self.model.tensors)
        label, file_type = size_label(parameters, parameters, 0, 0), self.quantization.file_type
        return [
            *gguf_file.general_entries(self.name, self.licence, label, file_type, self.model.generation),
            *gguf_file.architecture_entries(self.model.config),
            *gguf_file.tokenizer_entries(self.model.tokenizer, self.model.chat_template),
            *gguf_file.agent_entries(self.model.fields, self.model.config.vocab_size, self.model.checkpoint_tokens),
        ]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors, without metadata and padding."""
        return sum(info.nbytes for info in self.infos)

    @property
    def file_bytes(self) -> int:
        return gguf_file.file_bytes(self.entries, self.infos)

    @property
    def matrices(self) -> list[ModelTensor]:
        """The tensors with a choice of types."""
        return [tensor for tensor in self.model.tensors if tensor.is_quantizable]

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a decode step reads: every matrix, but only one row of an embedding that is no output matrix."""
        return sum(info.nbytes for info in self._multiplied)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values (F16) for each token of context."""
        return 2 * 2 * self.model.config.num_hidden_layers * self.model.config.kv_length

    @property
    def board_bytes(self) -> int:
        """Bytes of a board's memory that an agent with this model takes, predicted for CONTEXT_TOKENS of context."""
        return self.bytes_per_token + CONTEXT_TOKENS * self.kv_bytes_per_token + _PROGRAMS_BYTES

    def ram_bytes(self, target: Target) -> int:
        """Bytes that loading copies into anonymous memory for fast kernels of the target."""
        return sum(info.nbytes for info in self._multiplied if is_repacked(target, info.kind, info.shape[0]))

    @property
    def _multiplied(self) -> list[gguf_file.PlannedTensor]:
        has_output = any(info.name == OUTPUT for info in self.infos)
        return [info for info in self.infos if len(info.shape) > 1 and not (has_output and info.name == TOKEN_EMBD)]

    @property
    def quantization_name(self) -> str:
        """llama.cpp's name of the mix; for AUTO the type of most of the matrices' bytes, "-MIX" if not of all."""
        if self.quantization is not Quantization.AUTO:
            return self.quantization.name
        # Vectors alone are F32.
        nbytes = {name: counts["bytes"] for name, counts in self.histogram().items() if name != "F32"}
        largest = min(nbytes, key=lambda name: (-nbytes[name], name))
        return f"{largest}-MIX" if len(nbytes) > 1 else largest

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all tensors, as llama.cpp counts them."""
        return 8 * self.data_bytes / sum(prod(info.shape) for info in self.infos)

    def histogram(self) -> dict[str, dict[str, int]]:
        tensors, nbytes = Counter[str](), Counter[str]()
        for info in self.infos:
            tensors[info.kind.name] += 1
            nbytes[info.kind.name] += info.nbytes
        return {name: {"tensors": tensors[name], "bytes": nbytes[name]} for name in sorted(tensors)}

    def with_types(self, types: Mapping[str, GgmlType]) -> "FilePlan":
        kinds = [types[tensor.name] if tensor.is_quantizable else GgmlType.F32 for tensor in self.model.tensors]
        return replace(self, infos=list(map(_info, self.model.tensors, kinds)))

    def write(
        self, path: Path, *, encoded: FindEncoded | None = None, progress: OnProgress = lambda _what, _share: None
    ) -> None:
        """Raises CheckpointError for damaged weights, and for a model that the agent would not open.

        Raises ConvertError if a type cannot hold the weights.
        """
        done = 0

        def parts(tensor: ModelTensor, kind: GgmlType) -> Iterator[memoryview]:
            nonlocal done
            stored = encoded(tensor.name, kind) if encoded is not None else None
            for part in encode_tensor(tensor, kind, processors()) if stored is None else [memoryview(stored)]:
                yield part
                done += len(part)
                progress(f"writing {tensor.name}", done / self.data_bytes)

        data = (parts(tensor, info.kind) for tensor, info in zip(self.model.tensors, self.infos, strict=True))
        gguf_file.write_gguf(path, self.entries, self.infos, data)
        try:
            read_model_facts(path)
        except HeaderError as error:
            raise CheckpointError(f"llama.cpp could not run the model of this checkpoint: {error}") from None


def make_plan(
    model: SourceModel, quantization: Quantization, *, name: str = DEFAULT_NAME, licence: str | None = None
) -> FilePlan:
    """The default licence is the checkpoint's. With AUTO all matrices are BF16 until `FilePlan.with_types` decides."""
    types = tensor_types(quantization, model.config, model.tensors)
    return FilePlan(
        model=model,
        quantization=quantization,
        name=name,
        licence=licence or model.licence,
        infos=[_info(tensor, types[tensor.name]) for tensor in model.tensors],
    )


def _info(tensor: ModelTensor, kind: GgmlType) -> gguf_file.PlannedTensor:
    return gguf_file.PlannedTensor(tensor.name, kind, tensor.shape, tensor.rows * ggml.row_bytes(kind, tensor.columns))
