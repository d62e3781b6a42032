"""`llama_model_quantize` of the installed binding: what our one-pass output is compared with."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
from gguf import GGMLQuantizationType

# llama.cpp reports every tensor.
_SILENT = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)


def silence_llama_cpp() -> None:
    """No more lines from llama.cpp on stderr in this process."""
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))


@contextmanager
def _quiet_output() -> Iterator[None]:
    # A few lines go to the C library's stdout, past the log callback.
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def quantize_natively(source: Path, target: Path, file_type: int, overrides: dict[str, str] | None = None) -> None:
    """Quantize the GGUF file `source` by upstream's code, in its default mix or with a type for each tensor named."""
    silence_llama_cpp()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = len(os.sched_getaffinity(0))
    params.max_buf_size = 256 << 20
    if overrides is not None:
        entry = llama_cpp.llama_model_tensor_override
        patterns = [(f"^{name}$".replace(".", r"\."), GGMLQuantizationType[kind]) for name, kind in overrides.items()]
        entries = [*(entry(pattern.encode(), kind) for pattern, kind in patterns), entry(None, 0)]
        table = (entry * len(entries))(*entries)
        params.tt_overrides = ctypes.cast(table, type(params.tt_overrides))
    with _quiet_output():
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    assert code == 0, f"llama_model_quantize failed with {code}"
