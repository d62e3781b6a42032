"""The only importer of llama_cpp in edge_agent: a model with one context.

llama.cpp aborts the process on mistakes of its caller: too many outputs, a sequence id out of range. The agent then
starts another worker. Each instance is used by one thread.
Source of the calls' rules: include/llama.h and src/llama-context.cpp of llama.cpp as vendored by llama-cpp-python.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import secrets
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from edge_agent.core.pipe import Sampling
from edge_agent.engine.backends import BackendError, load_backends, loaded_variant
from edge_agent.gguf.adapter import check_adapter
from edge_agent.gguf.header import HeaderError, read_header

log = logging.getLogger(__name__)

Logits = npt.NDArray[np.float32]
# struct llama_token_data
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

_ATTRIBUTES_PARSED_AS_SPECIAL = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
)
_LIBRARY_FOLDER = Path(llama_cpp.__file__).parent / "lib"
# KV cells are handed out and padded in steps of this many (llama_kv_cache::get_padding).
_CONTEXT_STEP = 256
_MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
# Seeds are below this: llama.cpp takes the largest 32-bit number to mean "random".
_SEEDS = 2**32 - 1
# enum ggml_log_level in ggml/include/ggml.h. The caller reports a failed call, so llama.cpp's own levels are lowered
# by one.
_PYTHON_LEVELS = {3: logging.INFO, 4: logging.WARNING}
_GGML_ERROR = 4
_BUFFER = re.compile(r"(\w+) model buffer size =\s*([0-9.]+) MiB")
# Buffers with the file's layout; the others (CPU_REPACK, AMX, CPU_KLEIDIAI) hold a copy in another one.
_PLAIN_BUFFERS = ("CPU", "CPU_Mapped")


class LoadError(Exception):
    """The model file cannot be opened or used; the message says why."""


class DecodeError(Exception):
    """llama_decode failed; the content of the cache is unknown."""


class NumericError(Exception):
    """The model's logits are not finite numbers."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one sequence; `outputs` are the offsets into `tokens` after which logits are wanted."""

    seq_id: int
    position: int
    tokens: Sequence[int]
    outputs: Sequence[int] = ()


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(takewhile(bool, map(eq, one, other)))


class LlamaLog:
    """Passes llama.cpp's log on to Python's logging, and reads from it a figure that llama.cpp gives nowhere else."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=5)  # The latest ones.
        self.repacked_mib: float | None = None  # MiB of weights in another layout, if buffer sizes were logged.

    def write(self, level: int, text: str) -> None:
        line = text.strip()
        log.log(_PYTHON_LEVELS.get(level, logging.DEBUG), "%s", line)
        if level == _GGML_ERROR:
            self.errors.append(line)
        if match := _BUFFER.search(line):
            self.repacked_mib = self.repacked_mib or 0.0
            if match[1] not in _PLAIN_BUFFERS:
                self.repacked_mib += float(match[2])


_log_callback: Any = None


def _write_log_to(log: LlamaLog) -> None:
    """llama.cpp has one log for the whole process, which goes to the newest instance of Llama."""
    global _log_callback  # noqa: PLW0603 - the library keeps this pointer
    _log_callback = llama_cpp.llama_log_callback(lambda level, text, _: log.write(level, text.decode(errors="replace")))
    llama_cpp.llama_log_set(_log_callback, ctypes.c_void_p(0))


class Llama:
    """A model and its context.

    All sequences share the KV cells of `context_tokens`, by default the model's length, at most 4096. Their ids are
    below `sequences`, and as many rows of a step may have logits. All adapters are applied. `on_progress` is called
    often while it loads, and after each step of `extend`.
    Raises LoadError for a file that is missing or not GGUF, another model's adapter, or too little memory.
    """

    def __init__(
        self,
        path: str,
        *,
        context_tokens: int | None,
        batch_tokens: int,
        sequences: int,
        adapters: Sequence[str] = (),
        on_progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_progress = on_progress
        self.log = LlamaLog()
        _write_log_to(self.log)
        try:
            load_backends(_LIBRARY_FOLDER)
        except BackendError as error:
            raise LoadError(str(error)) from error
        llama_cpp.llama_backend_init()
        if sequences > _MAX_SEQUENCES:
            raise LoadError(f"{sequences} sequences are more than llama.cpp's {_MAX_SEQUENCES}: lower max_active")
        if not Path(path).is_file():
            raise LoadError(f"model file {path!r} does not exist")
        try:
            read_header(Path(path))
        except HeaderError as error:
            raise LoadError(f"model file {path!r}: {error}") from error
        self._model: Any = self._load_model(path)
        if not self._model:
            raise LoadError(f"model file {path!r} cannot be loaded: {self._last_errors()}")
        # Before the context, which reserves room for them.
        self._adapters = [self._load_adapter(adapter) for adapter in adapters]
        self._vocabulary: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self.bos: int = llama_cpp.llama_vocab_bos(self._vocabulary)  # -1 if the model has none.
        self.eos: int = llama_cpp.llama_vocab_eos(self._vocabulary)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocabulary)
        end_of_turn: int = llama_cpp.llama_vocab_eot(self._vocabulary)
        self.end_of_turn = end_of_turn if end_of_turn >= 0 else self.eos
        wanted = context_tokens or min(llama_cpp.llama_model_n_ctx_train(self._model), 4096)
        self.context_tokens: int = -(-wanted // _CONTEXT_STEP) * _CONTEXT_STEP
        self.sequences = sequences
        # llama.cpp aborts at creation if a batch cannot hold a row of each sequence.
        self.batch_tokens = max(min(batch_tokens, self.context_tokens), sequences)
        self._lengths = [0] * sequences  # Tokens that the cache holds for each sequence.
        self._threads = 0  # The threads of the latest step, if there was one.
        # Gives the bytes of a token, also of a control token; a character may span several tokens.
        self.piece = cache(self._read_piece)
        self._batch = _Batch(self.batch_tokens)
        self._open_context()

    def _load_model(self, path: str) -> Any:
        def on_tensor(_progress: float, _user_data: object) -> bool:
            self._on_progress()
            return True

        params = llama_cpp.llama_model_default_params()
        # A weight that is infinite or NaN spoils the answers.
        params.check_tensors = True
        params.progress_callback = callback = llama_cpp.llama_progress_callback(on_tensor)
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        # The library holds no reference to it.
        del callback
        return model

    def _load_adapter(self, path: str) -> Any:
        try:
            check_adapter(Path(path))
        except HeaderError as error:
            raise LoadError(f"adapter file {path!r}: {error}") from error
        except OSError as error:
            raise LoadError(f"adapter file {path!r} cannot be read: {error.strerror}") from error
        adapter = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            raise LoadError(f"adapter file {path!r} cannot be loaded: {self._last_errors()}")
        return adapter

    def _open_context(self) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.context_tokens
        params.n_batch = params.n_ubatch = self.batch_tokens
        params.n_seq_max = params.n_outputs_max = self.sequences
        params.n_outputs_max_per_seq = 0
        params.kv_unified = True
        params.no_perf = True
        self._context: Any = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise LoadError(f"no context of {self.context_tokens} tokens: {self._last_errors()}")
        self.context_tokens = llama_cpp.llama_n_ctx(self._context)
        self._memory: Any = llama_cpp.llama_get_memory(self._context)
        count = len(self._adapters)
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * count)(*self._adapters)
        llama_cpp.llama_set_adapters_lora(self._context, pointers, count, (ctypes.c_float * count)(*[1.0] * count))

    @property
    def build(self) -> str:
        """What a decoded state depends on besides the model: the library and the size of the context."""
        return f"llama-cpp-python {llama_cpp.__version__}, {self.cpu_variant}, {self.context_tokens} cells"

    @property
    def cpu_variant(self) -> str:
        """The kernel variant, where the library has several, and its CPU features by llama.cpp's names."""
        words: str = llama_cpp.llama_print_system_info().decode(errors="replace")
        return " ".join(filter(None, (loaded_variant(), *re.findall(r"(\w+) = 1\b", words))))

    def _last_errors(self) -> str:
        return "; ".join(self.log.errors) or "llama.cpp gave no reason"

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokens of `text` alone: neither BOS nor EOS is added. User-defined tokens are always parsed (llama.cpp)."""
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), buffer, room, False, parse_special)
        if count < 0:
            raise LoadError(f"the tokenizer wants {-count} tokens for {len(data)} bytes")
        return buffer[:count]

    def _read_piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @cached_property
    def json_tokenizer(self) -> LLTokenizer:
        """The vocabulary for llguidance. Made at first use: about a second on a PC, and 20 MB."""
        # llguidance's own lltokenizer_from_vocab does the same over a deprecated function.
        tokens = [
            # 0xff begins no text: llguidance allows these nowhere.
            b"\xff" + self._read_piece(token) if self._is_special(token) else self._read_piece(token)
            for token in range(self.vocabulary_size)
        ]
        tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value  # noqa: SLF001
        # Without slices, which save 2 ms of some masks and cost 35 MB.
        tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=tokens, vocab_ptr=self._vocabulary, tokenize_fptr=tokenize, eos_token=self.end_of_turn, slices=[]
        )
        return tokenizer

    def _is_special(self, token: int) -> bool:
        """Whether the tokenizer turns this token's text into the token wherever it occurs."""
        return bool(llama_cpp.llama_vocab_get_attr(self._vocabulary, token) & _ATTRIBUTES_PARSED_AS_SPECIAL)

    def allowed_tokens(self, matcher: LLMatcher) -> npt.NDArray[np.intp]:
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(mask, bitorder="little")[: self.vocabulary_size])

    def is_control(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_control(self._vocabulary, token))

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    def special_texts(self) -> frozenset[str]:
        """Texts that the tokenizer turns into one special token anywhere."""
        texts = (
            llama_cpp.llama_vocab_get_text(self._vocabulary, token).decode(errors="replace")
            for token in range(self.vocabulary_size)
            if self._is_special(token)
        )
        return frozenset(text for text in texts if text)

    def chat_template(self) -> str | None:
        source = llama_cpp.llama_model_chat_template(self._model, None)
        return source.decode(errors="replace") if source else None

    def metadata(self, key: str) -> str | None:
        """A text of the file's header, if it has it."""
        size = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def share(self, source: int, target: int, length: int) -> None:
        """Gives the empty sequence `target` the first `length` tokens of `source`; both then hold the cells."""
        if length:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)
            self._lengths[target] = length

    def cut(self, seq_id: int, length: int) -> None:
        """Keeps only the first `length` tokens of a sequence."""
        if length < self._lengths[seq_id]:
            llama_cpp.llama_memory_seq_rm(self._memory, seq_id, length, -1)
            self._lengths[seq_id] = length

    def forget(self, seq_id: int) -> None:
        self.cut(seq_id, 0)

    def state(self, seq_id: int) -> bytes:
        """What the cache holds of a sequence, for `restore` under the same model, build and sizes."""
        size = llama_cpp.llama_state_seq_get_size(self._context, seq_id)
        buffer = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(self._context, buffer, size, seq_id)
        return bytes(buffer)

    def restore(self, seq_id: int, state: bytes, length: int) -> bool:
        """Fills an empty sequence with `length` tokens from `state`, whose origin the caller has checked.

        Returns False if llama.cpp refuses it.
        """
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        read = llama_cpp.llama_state_seq_set_data(self._context, buffer, len(state), seq_id)
        highest = llama_cpp.llama_memory_seq_pos_max(self._memory, seq_id)
        if read != len(state) or highest != length - 1:
            llama_cpp.llama_memory_seq_rm(self._memory, seq_id, -1, -1)
            return False
        self._lengths[seq_id] = length
        return True

    def decode(self, pieces: Sequence[Piece], *, threads: int) -> list[int]:
        """Decodes these pieces, each the end of its sequence, in one pass; returns the row of each piece's first token.

        Raises DecodeError.
        """
        starts = self._batch.fill(pieces)
        if threads != self._threads:  # each call writes a line of the log
            self._threads = threads
            # The second number is for batches of two tokens or more.
            llama_cpp.llama_set_n_threads(self._context, threads, threads)
        result = llama_cpp.llama_decode(self._context, self._batch.struct)
        if result != 0:
            raise DecodeError(f"llama_decode gave {result} for {self._batch.struct.n_tokens} tokens")
        for piece in pieces:
            self._lengths[piece.seq_id] += len(piece.tokens)
        return starts

    def extend(self, seq_id: int, tokens: Sequence[int], *, threads: int) -> None:
        """Decodes more tokens of one sequence in as many steps as needed. Raises DecodeError."""
        for start in range(0, len(tokens), self.batch_tokens):
            part = tokens[start : start + self.batch_tokens]
            self.decode([Piece(seq_id, self._lengths[seq_id], part)], threads=threads)
            self._on_progress()

    def logits(self, row: int) -> Logits:
        """Logits [vocabulary] after this row of the last batch: a view that the next `decode` overwrites.

        Raises NumericError unless all of them are finite.
        """
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        logits = np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))
        are_finite = np.isfinite(logits)
        if not are_finite.all():
            token = int(np.argmin(are_finite))
            raise NumericError(f"the model's logit of token {token} is {logits[token]}, not a finite number")
        return logits

    def sample(self, chain: SamplerChain, row: int) -> int:
        return int(llama_cpp.llama_sampler_sample(chain.pointer, self._context, row))

    def close(self) -> None:
        """Frees the memory; the instance is of no use after that."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


class SamplerChain:
    """llama.cpp's samplers in its usual order, for one request."""

    def __init__(self, sampling: Sampling) -> None:
        self.pointer: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        weakref.finalize(self, llama_cpp.llama_sampler_free, self.pointer)
        links: list[Any] = []
        if sampling.top_k > 0:
            links.append(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p is not None and sampling.top_p < 1.0:
            links.append(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            links.append(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        links.append(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        seed = secrets.randbelow(_SEEDS) if sampling.seed is None else sampling.seed % _SEEDS
        links.append(llama_cpp.llama_sampler_init_dist(seed))
        for link in links:
            llama_cpp.llama_sampler_chain_add(self.pointer, link)

    def pick(self, tokens: npt.NDArray[np.intp], logits: Logits) -> int:
        """One of these tokens, by their logits."""
        candidates = np.zeros(len(tokens), dtype=_TOKEN_DATA)
        candidates["id"], candidates["logit"] = tokens, logits
        data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
        llama_cpp.llama_sampler_apply(self.pointer, ctypes.byref(array))
        return int(array.data[array.selected].id)


class _Batch:
    """A llama_batch over numpy memory, so that a piece is written by slices."""

    def __init__(self, size: int) -> None:
        self._token = np.zeros(size, dtype=np.int32)
        self._position = np.zeros(size, dtype=np.int32)
        self._sequence_count = np.ones(size, dtype=np.int32)
        self._sequence = np.zeros(size, dtype=np.int32)
        self._logits = np.zeros(size, dtype=np.int8)
        base = self._sequence.ctypes.data
        self._sequence_pointers = np.arange(base, base + 4 * size, 4, dtype=np.uintp)
        # The only place where ctypes has the types of fields.
        fields: dict[str, Any] = {field[0]: field[1] for field in llama_cpp.llama_batch._fields_}
        self.struct = llama_cpp.llama_batch()
        for name, array in (
            ("token", self._token),
            ("pos", self._position),
            ("n_seq_id", self._sequence_count),
            ("seq_id", self._sequence_pointers),
            ("logits", self._logits),
        ):
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, fields[name]))

    def fill(self, pieces: Sequence[Piece]) -> list[int]:
        starts, row = [], 0
        for piece in pieces:
            count = len(piece.tokens)
            rows = slice(row, row + count)
            self._token[rows] = piece.tokens
            self._position[rows] = np.arange(piece.position, piece.position + count)
            self._sequence[rows] = piece.seq_id
            self._logits[rows] = 0
            for offset in piece.outputs:
                self._logits[row + offset] = 1
            starts.append(row)
            row += count
        self.struct.n_tokens = row
        return starts
