"""`llama_model_quantize` of the installed binding, with which our one-pass output is compared."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp

# llama.cpp reports every tensor.
_SILENT = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)


def silence_llama_cpp() -> None:
    """Makes llama.cpp print no more lines to stderr in this process."""
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


def quantize_natively(source: Path, target: Path, file_type: int) -> None:
    """Quantizes the GGUF file `source` with upstream's code, in its default mix."""
    silence_llama_cpp()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = len(os.sched_getaffinity(0))
    params.max_buf_size = 256 << 20
    with _quiet_output():
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    assert code == 0, f"llama_model_quantize failed with {code}"
