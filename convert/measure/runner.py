"""Runs a GGUF model on texts. No other module of the converter imports llama_cpp.

Matrix products are observed through llama.cpp's `cb_eval`, which is asked before each node whether to observe it.
Source: include/llama.h and ggml/include/ggml.h of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

import ctypes
import mmap
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import llama_cpp
import numpy as np
import numpy.typing as npt

from ..agent import BackendError, HeaderError, TensorInfo, check_adapter, load_backends, read_header
from ..errors import ConvertError, escaped
from ..quantize.ggml import Floats, GgmlType, library_path
from ..quantize.quantizer import processors
from ..stopping import is_stop_pending, stop_deferred

# Long enough for a conversation, short enough for the memory of a step's logits.
CHUNK_TOKENS = 512
_MUL_MAT, _GET_ROWS = 29, 40  # enum ggml_op
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_FIXED = 0x10  # MAP_FIXED of Linux
_FAILED = ctypes.c_void_p(-1).value


class _Tensor(ctypes.Structure):
    """struct ggml_tensor"""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
_EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Tensor), ctypes.c_bool, ctypes.c_void_p)


class LoadedVocabulary:
    """The vocabulary of a model file, without its weights. Raises ConvertError if it cannot be loaded."""

    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        with stop_deferred():
            self._load(path, params)

    def _load(self, path: Path, params: Any) -> None:
        llama_cpp.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
        try:
            load_backends(library_path().parent)
        except BackendError as error:
            raise ConvertError(str(error)) from error
        llama_cpp.llama_backend_init()
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ConvertError(f"{escaped(str(path))}: llama.cpp cannot load this model, or a weight is not finite")
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.token_count: int = llama_cpp.llama_vocab_n_tokens(self._vocab)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_model_free(self._model)

    @property
    def chat_template(self) -> str | None:
        source = llama_cpp.llama_model_chat_template(self._model, None)
        return source.decode(errors="replace") if source else None

    @property
    def bos_text(self) -> str:
        """The text of BOS for chat templates; empty if the model has none."""
        token = llama_cpp.llama_vocab_bos(self._vocab)
        # llama.cpp ends the process for a token that does not exist.
        return llama_cpp.llama_vocab_get_text(self._vocab, token).decode(errors="replace") if token >= 0 else ""

    @property
    def end_of_turn(self) -> int:
        """The token that llama.cpp takes for the end of a turn; -1 if there is none."""
        return int(llama_cpp.llama_vocab_eot(self._vocab))

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokens of the text alone, without BOS."""
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), buffer, room, False, parse_special)
        if count < 0:
            raise ConvertError(f"the tokenizer needs {-count} tokens for {len(data)} bytes")
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:length]


class Runner(LoadedVocabulary):
    """A model that runs one text of at most CHUNK_TOKENS at a time, each from an empty context.

    All `adapters` are applied. With `is_writable`, `writable_weights` may be used; the weights are then mapped from the
    file, so that the model may be larger than the memory. Raises ConvertError if the model or an adapter cannot be
    loaded.
    """

    def __init__(self, path: Path, adapters: Sequence[Path] = (), *, is_writable: bool = False) -> None:
        self._path = path
        # The context keeps this pointer.
        self._eval_callback = _EvalCallback(self._on_node)
        self._wanted: Collection[str] = ()
        self._inputs: dict[str, Floats] = {}
        self._addresses: dict[str, int] = {}
        self._multiplied: set[str] = set()
        self._infos: dict[str, TensorInfo] = {}
        # llama.cpp calls back to log.
        with stop_deferred():
            self._open(path, adapters, is_writable=is_writable)
        self._memory: Any = llama_cpp.llama_get_memory(self._context)
        self._batch: Any = llama_cpp.llama_batch_init(CHUNK_TOKENS, 0, 1)
        if is_writable:
            self._infos = {info.name: info for info in read_header(path).tensors}
            # llama.cpp names the addresses of the weights only while it runs.
            self.logits([0])

    def _open(self, path: Path, adapters: Sequence[Path], *, is_writable: bool) -> None:
        params = llama_cpp.llama_model_default_params()
        params.check_tensors = True
        if is_writable:
            # Kernels with another layout would read a copy.
            params.load_mode, params.use_extra_bufts = llama_cpp.LLAMA_LOAD_MODE_MMAP, False
        self._load(path, params)
        # A context has room only for adapters that were loaded before it.
        loaded = [self._load_adapter(adapter) for adapter in adapters]
        self._context: Any = llama_cpp.llama_init_from_model(self._model, self._context_params())
        if not self._context:
            raise ConvertError(f"{escaped(str(path))}: no memory for a context of {CHUNK_TOKENS} tokens")
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * len(loaded))(*loaded)
        scales = (ctypes.c_float * len(loaded))(*([1.0] * len(loaded)))
        llama_cpp.llama_set_adapters_lora(self._context, pointers, len(loaded), scales)

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        super().__exit__()

    def _context_params(self) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = CHUNK_TOKENS
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = processors()
        # With flash attention the last bits of the result depend on the number of threads.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        params.cb_eval = ctypes.cast(self._eval_callback, llama_cpp.ggml_backend_sched_eval_callback)
        return params

    def _load_adapter(self, path: Path) -> Any:
        try:
            check_adapter(path)
        except HeaderError as error:
            raise ConvertError(f"{escaped(str(path))}: {error}") from None
        adapter = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            raise ConvertError(f"{escaped(str(path))}: llama.cpp cannot load this adapter for this model")
        return adapter

    def logits(self, tokens: Sequence[int], first: int = 0) -> Floats:
        """The logits after each token from `first` on, [tokens, vocabulary], as a view that the next call invalidates.

        Raises ConvertError.
        """
        self._run(tokens, first)
        pointer = llama_cpp.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(pointer, shape=(len(tokens) - first, self.token_count))
        # Both are NaN if any logit is.
        if not np.isfinite((logits.min(), logits.max())).all():
            raise ConvertError(f"{escaped(str(self._path))}: computes logits that are not finite")
        return logits

    def inputs(self, tokens: Sequence[int], names: Collection[str]) -> dict[str, Floats]:
        """What each of these matrices is multiplied with, [tokens, columns], by name. Raises ConvertError."""
        self._wanted, self._inputs = names, {}
        self._run(tokens, 0)
        self._wanted = ()
        return self._inputs

    def _run(self, tokens: Sequence[int], first: int) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        batch = self._batch
        batch.n_tokens = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, at, 1, at >= first
            batch.seq_id[at][0] = 0
        with stop_deferred():
            result = llama_cpp.llama_decode(self._context, batch)
        if result != 0:
            raise ConvertError(f"llama_decode gave {result} for {len(tokens)} tokens")

    def is_multiplied(self, name: str) -> bool:
        """Whether a writable model multiplies with this BF16 matrix, because an embedding may be only looked up."""
        return name in self._multiplied

    def weights(self, name: str) -> npt.NDArray[np.uint16]:
        """The bits of a BF16 matrix [rows, columns] in a writable model's file. Raises KeyError for an unknown one."""
        info = self._infos[name]
        return np.memmap(self._path, np.uint16, "r", info.offset, info.shape[::-1])

    @contextmanager
    def writable_weights(self, name: str) -> Iterator[npt.NDArray[np.uint16]]:
        """The bits of a BF16 matrix [rows, columns] that the model computes with, until the body ends."""
        address, info = self._addresses[name], self._infos[name]
        with _writable_pages(self._path, info.offset, address, info.nbytes):
            bits = (ctypes.c_uint16 * (info.nbytes // 2)).from_address(address)
            yield np.ctypeslib.as_array(bits).reshape(info.shape[::-1])

    def _on_node(self, pointer: Any, is_question: bool, _user_data: object) -> bool:  # noqa: FBT001 - C calls it
        """llama.cpp calls it before a node (a question: observe it?) and after an observed one (go on?)."""
        if is_stop_pending():
            return is_question
        node = pointer.contents
        if node.op not in {_MUL_MAT, _GET_ROWS}:
            return not is_question
        matrix = node.src[0].contents
        name = matrix.name.decode()
        if is_question:
            if matrix.type == GgmlType.BF16:
                self._addresses[name] = matrix.data
                if node.op == _MUL_MAT:
                    self._multiplied.add(name)
            return node.op == _MUL_MAT and name in self._wanted
        inputs = node.src[1].contents
        columns, tokens = inputs.ne[0], inputs.ne[1]
        numbers = np.ctypeslib.as_array((ctypes.c_float * (columns * tokens)).from_address(inputs.data))
        self._inputs[name] = numbers.reshape(tokens, columns).copy()
        return len(self._inputs) < len(self._wanted)


@contextmanager
def _writable_pages(path: Path, offset: int, address: int, nbytes: int) -> Iterator[None]:
    """Makes the pages mapped at `address` writable; at the end they have the file's content again."""
    # Mappings begin with whole pages.
    before = address % mmap.PAGESIZE
    span = address - before, nbytes + before, offset - before
    _map(path, *span, mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        yield
    finally:
        _map(path, *span, mmap.PROT_READ)


def _map(path: Path, address: int, nbytes: int, offset: int, protection: int) -> None:
    """Maps a part of the file anew, at the same address, so that what was written there is gone."""
    with path.open("rb") as file:
        flags = mmap.MAP_PRIVATE | _FIXED
        if _LIBC.mmap(address, nbytes, protection, flags, file.fileno(), offset) == _FAILED:
            raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}", str(path))


# Nothing is logged, because errors are reported from the results of calls. The library keeps this pointer.
_LOG_CALLBACK = llama_cpp.llama_log_callback(lambda _level, _text, _user_data: None)
