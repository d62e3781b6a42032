"""Small libraries stand for llama.cpp's here; the real ones, with every variant, are tried by rigs/arm."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.engine.backends import BackendError, load_backends

# What libllama gives of libggml. A load finds LOADS backends.
_LLAMA = """
#include <stdio.h>
static unsigned long count = 0;
unsigned long ggml_backend_reg_count(void) { return count; }
void ggml_backend_load_all_from_path(const char *path) {
  FILE *told = fopen(TOLD, "w");
  fputs(path, told);
  fclose(told);
  count += LOADS;
}
"""


def _compile(path: Path, source: str, **defines: object) -> None:
    words = [f"-D{name}={value}" for name, value in defines.items()]
    subprocess.run(
        ["cc", "-shared", "-fPIC", *words, "-x", "c", "-o", str(path), "-"], input=source, text=True, check=True
    )


def _library(folder: Path, *, loads: int) -> Path:
    """Makes a library; returns the file into which it writes what it was asked to load from."""
    told = folder / "told"
    _compile(folder / "libllama.so", _LLAMA, LOADS=loads, TOLD=f'"{told}"')
    return told


def test_a_library_without_kernels_loads_them_from_its_folder_once(tmp_path: Path) -> None:
    told = _library(tmp_path, loads=1)
    load_backends(tmp_path)
    assert told.read_text() == str(tmp_path)
    told.unlink()
    load_backends(tmp_path)
    assert not told.exists()


def test_kernels_that_do_not_run_on_this_cpu_are_named_as_the_cause(tmp_path: Path) -> None:
    _library(tmp_path, loads=0)
    with pytest.raises(BackendError, match=f"{tmp_path} has no libggml-cpu"):
        load_backends(tmp_path)


@pytest.mark.parametrize(
    ("file", "name"), [("libggml-cpu-armv8.2_2.so", "armv8.2_2"), ("libggml-cpu.so", "None"), ("libomp.so", "None")]
)
def test_the_variant_is_named_by_the_file_that_is_loaded(tmp_path: Path, file: str, name: str) -> None:
    _compile(tmp_path / file, "int nothing;")
    code = (
        "import ctypes, sys; from edge_agent.engine.backends import loaded_variant; "
        "ctypes.CDLL(sys.argv[1]); print(loaded_variant())"
    )

    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / file)], capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == name
