"""Kernel variants: with GGML_BACKEND_DL llama.cpp has a library of kernels per kind of core, and loads none itself."""

import ctypes
import os
import re
from pathlib import Path

_MAPPED = re.compile(r"/libggml-cpu-([\w.]+)\.so$", re.MULTILINE)


class BackendError(Exception):
    """No kernels run on this CPU; the message names the folder."""


def load_backends(folder: Path) -> None:
    """Loads the kernels in llama.cpp's folder that fit this CPU best; does nothing if they are built in.

    Before llama_backend_init. Raises BackendError.
    """
    path = folder / "libllama.so"
    if not path.exists():
        return
    # Through libllama, so that it is the libggml that libllama uses and not another copy.
    library = ctypes.CDLL(str(path))
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    if library.ggml_backend_reg_count():
        return
    library.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    library.ggml_backend_load_all_from_path.restype = None
    library.ggml_backend_load_all_from_path(os.fsencode(folder))
    if not library.ggml_backend_reg_count():
        raise BackendError(f"{folder} has no libggml-cpu-*.so that runs on this CPU: install llama-cpp-python again")


def loaded_variant() -> str | None:
    """The kernel variant that this process has loaded, by its file's name; None if kernels are built in."""
    try:
        match = _MAPPED.search(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return match[1] if match else None
