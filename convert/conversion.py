"""The converter's one job from end to end. START HERE: `make_plan` reads and decides, `write_bundle` does it."""

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from gguf import size_label

from edge_agent.gguf.header import HeaderError
from edge_agent.gguf.model import read_model_facts

from .errors import CheckpointError, ConvertError, printable
from .read.chat_template import ChatTemplates, read_chat_templates
from .read.checkpoint import Checkpoint
from .read.config import FILE as CONFIG_FILE
from .read.config import MODEL_TYPE, ModelConfig, parse_config
from .read.model_card import read_licence
from .read.special_tokens import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from .read.special_tokens import FILE as TOKENIZER_FILE
from .read.tensors import ModelTensor, map_tensors, stray_output
from .read.tokenizer import parse_tokenizer
from .weights import ggml
from .weights.ggml import GgmlType
from .weights.mix import mix_name
from .weights.quantize import Quantizer
from .weights.recipe import Quantization, tensor_types
from .write.bundle import check_target, new_bundle
from .write.gguf_file import (
    Entry,
    TensorInfo,
    architecture_entries,
    file_bytes,
    general_entries,
    tokenizer_entries,
    write_gguf,
)
from .write.manifest import FILE as MANIFEST_FILE
from .write.manifest import IMPORTANCE_FILE, MODEL_FILE, SIGNATURE_FILE, BundleFile, Manifest, measured, sha256_of

GENERATION_FILE = "generation_config.json"
DEFAULT_NAME = "model"
MAX_THREADS = 16
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller decides; `name` and `licence` default to what the checkpoint states."""

    quantization: Quantization
    name: str | None = None
    version: int = 1
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be written, but for the tensors' data. `warnings` are for the operator."""

    name: str
    version: int
    licence: str | None
    quantization: Quantization
    config: ModelConfig
    templates: ChatTemplates
    tensors: list[ModelTensor]
    infos: list[TensorInfo]
    entries: list[Entry]
    warnings: list[str]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors in the GGUF file, without metadata and padding."""
        return sum(info.nbytes for info in self.infos)

    @property
    def file_bytes(self) -> int:
        """Bytes of model.gguf."""
        return file_bytes(self.entries, self.infos)

    @property
    def matrix_bytes(self) -> dict[str, int]:
        """Type name → bytes of the matrices of that type."""
        nbytes = Counter[str]()
        for tensor, info in zip(self.tensors, self.infos, strict=True):
            if tensor.is_quantizable:
                nbytes[info.kind.name] += info.nbytes
        return dict(nbytes)

    @property
    def quantization_name(self) -> str:
        """For the manifest: as llama.cpp calls the mix of types, or what an automatic one mostly is."""
        return mix_name(self.matrix_bytes) if self.quantization is Quantization.AUTO else self.quantization.name

    @property
    def bits_per_weight(self) -> float:
        """Of all tensors' data, as llama.cpp counts them."""
        return 8 * self.data_bytes / sum(prod(tensor.shape) for tensor in self.tensors)

    def with_types(self, types: Mapping[str, GgmlType]) -> "Plan":
        """The same model, its matrices of these types."""
        infos = [_info(tensor, types.get(tensor.name, GgmlType.F32)) for tensor in self.tensors]
        return replace(self, infos=infos)

    def histogram(self) -> dict[str, dict[str, int]]:
        """Type name → number of tensors and their bytes."""
        tensors, nbytes = Counter[str](), Counter[str]()
        for info in self.infos:
            tensors[info.kind.name] += 1
            nbytes[info.kind.name] += info.nbytes
        return {name: {"tensors": tensors[name], "bytes": nbytes[name]} for name in sorted(tensors)}


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle that has been written: its manifest.json, and the files that this lists."""

    manifest: BundleFile
    files: Mapping[str, BundleFile]
    is_signed: bool


def read_tensors(checkpoint: Checkpoint) -> tuple[ModelConfig, list[ModelTensor]]:
    """The model's shape and its tensors. Raises CheckpointError as `make_plan`."""
    config = parse_config(_required(checkpoint, CONFIG_FILE))
    return config, map_tensors(config, checkpoint.tensors)


def make_plan(checkpoint: Checkpoint, options: Options) -> Plan:
    """Read all of the checkpoint but its weights and decide every byte's meaning.

    As AUTO all matrices are BF16: see `Plan.with_types`.
    Raises CheckpointError for a checkpoint that is damaged, inconsistent or of another architecture.
    """
    config, tensors = read_tensors(checkpoint)
    tokenizer_config = checkpoint.read_object(TOKENIZER_CONFIG_FILE) or {}
    tokenizer = parse_tokenizer(
        _required(checkpoint, TOKENIZER_FILE), tokenizer_config, config.special_token_ids, config.vocab_size
    )
    templates = read_chat_templates(checkpoint, tokenizer_config)
    generation = checkpoint.read_object(GENERATION_FILE) or {}
    licence = options.licence or read_licence(checkpoint)
    name = options.name or config.origin or DEFAULT_NAME
    types = tensor_types(options.quantization, config, tensors)
    infos = [_info(tensor, types.get(tensor.name, GgmlType.F32)) for tensor in tensors]
    parameters = sum(prod(tensor.shape) for tensor in tensors)
    entries = general_entries(
        name, licence, size_label(parameters, parameters, 0, 0), options.quantization.file_type, generation
    )
    warnings = [stray_output(config, checkpoint.tensors)]
    if licence is None:
        warnings.append("no licence is known: the checkpoint states none; --licence LICENCE does")
    if options.name is None and config.origin is None:
        warnings.append(f"no name is known: it is called `{DEFAULT_NAME}`; --name NAME gives it one")
    if config.sliding_window is not None and config.sliding_window < config.context_length:
        warnings.append(
            f"{CONFIG_FILE}: sliding_window {config.sliding_window} cannot be expressed for {MODEL_TYPE}; "
            "longer contexts will differ from transformers"
        )
    return Plan(
        name=name,
        version=options.version,
        licence=licence,
        quantization=options.quantization,
        config=config,
        templates=templates,
        tensors=tensors,
        infos=infos,
        entries=entries + architecture_entries(config) + tokenizer_entries(tokenizer, templates),
        warnings=[warning for warning in warnings if warning is not None],
    )


def write_bundle(
    checkpoint: Checkpoint,
    plan: Plan,
    target: Path,
    *,
    replace: bool = False,
    sign: Callable[[bytes], bytes] | None = None,
    threads: int | None = None,
    encoded: Callable[[str, GgmlType], Path] | None = None,
    add_files: Callable[[Path], None] = lambda _folder: None,
    more_sources: Mapping[str, str] | None = None,
    progress: Callable[[str, int], None] = lambda _name, _nbytes: None,
) -> Written:
    """Convert and write the bundle at `target`, whole or not at all; `progress` hears each tensor's name and bytes.

    encoded: files of matrices that are there already as the plan wants them. add_files: writes the bundle's further
    files into a folder with the finished model. sign: makes the signature of the manifest's bytes, None = the bundle
    has none. Raises ConvertError if `target` may not be written or the disk is too small, CheckpointError if the
    weights turn out to be damaged.
    """
    check_target(target, replace=replace)
    library = ggml.load()
    stop = threading.Event()
    with new_bundle(target, replace=replace) as folder, ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
        _check_space(folder, plan)
        try:
            # The hash waits for the disk, the quantizers for the processor.
            source_hashes = hasher.submit(checkpoint.source_hashes, stop)
            with Quantizer(library, threads or processors()) as quantizer:
                model = write_model(folder / MODEL_FILE, plan, quantizer, encoded=encoded, progress=progress)
            files = {MODEL_FILE: model}
            add_files(folder)
            files |= {
                path.name: BundleFile(sha256_of(path), path.stat().st_size)
                for path in folder.iterdir()
                if path.name not in files
            }
            sources = {**source_hashes.result(), **(more_sources or {})}
            manifest = _manifest(checkpoint, plan, files, sources, measured(folder)).encode()
        finally:
            stop.set()
        (folder / MANIFEST_FILE).write_bytes(manifest)
        if sign is not None:
            (folder / SIGNATURE_FILE).write_bytes(sign(manifest))
    stored = BundleFile(hashlib.sha256(manifest).hexdigest(), len(manifest))
    return Written(manifest=stored, files=files, is_signed=sign is not None)


def write_model(
    path: Path,
    plan: Plan,
    quantizer: Quantizer,
    *,
    encoded: Callable[[str, GgmlType], Path] | None = None,
    progress: Callable[[str, int], None] = lambda _name, _nbytes: None,
) -> BundleFile:
    """The GGUF file alone; as `write_bundle`. CheckpointError also for what the agent would not open."""

    def parts(tensor: ModelTensor, kind: GgmlType) -> Iterator[memoryview]:
        stored = encoded(tensor.name, kind) if encoded is not None and tensor.is_quantizable else None
        for part in quantizer.encode(tensor, kind) if stored is None else _file_parts(stored):
            yield part
            progress(tensor.name, len(part))

    data = (parts(tensor, info.kind) for tensor, info in zip(plan.tensors, plan.infos, strict=True))
    written = BundleFile(*write_gguf(path, plan.entries, plan.infos, data))
    try:
        read_model_facts(path)
    except HeaderError as error:
        raise CheckpointError(f"no model can be made of it that llama.cpp runs: {error}") from None
    return written


def _file_parts(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        while part := file.read(_COPY_BYTES):
            yield memoryview(part)


def _manifest(
    checkpoint: Checkpoint,
    plan: Plan,
    files: dict[str, BundleFile],
    source_hashes: dict[str, str],
    quality: dict[str, Any] | None,
) -> Manifest:
    return Manifest(
        name=plan.name,
        version=plan.version,
        architecture=MODEL_TYPE,
        quantization=plan.quantization_name,
        licence=plan.licence,
        files=files,
        source_files=source_hashes,
        revision=checkpoint.revision(),
        types={info.name: info.kind.name for info in plan.infos},
        context_length=plan.config.context_length,
        chat_template_sha256=plan.templates.default_sha256,
        quality=quality,
        imatrix_sha256=files[IMPORTANCE_FILE].sha256 if IMPORTANCE_FILE in files else None,
    )


def _info(tensor: ModelTensor, kind: GgmlType) -> TensorInfo:
    return TensorInfo(tensor.name, kind, tensor.shape, tensor.rows * ggml.row_bytes(kind, tensor.columns))


def _required(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    value = checkpoint.read_object(name)
    if value is None:
        raise CheckpointError(f"{name}: missing in {printable(str(checkpoint.folder))}")
    return value


def _check_space(folder: Path, plan: Plan) -> None:
    free = shutil.disk_usage(folder).free
    if free < plan.data_bytes:
        raise ConvertError(f"{printable(str(folder.parent))}: {free} bytes free, the model takes {plan.data_bytes}")


def processors() -> int:
    """Those that this process may use, at most MAX_THREADS."""
    if hasattr(os, "sched_getaffinity"):
        return min(MAX_THREADS, len(os.sched_getaffinity(0)))
    return min(MAX_THREADS, os.cpu_count() or 1)
