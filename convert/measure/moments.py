"""Second moments of the inputs of a model's matrices over a corpus, and importance matrices.

Each sum adds the texts in their order, so it does not depend on the number of threads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from ..quantize.ggml import Floats
from ..quantize.quantizer import processors
from .cache import is_whole_gguf
from .runner import CHUNK_TOKENS, Runner

# Matrices side by side that have the same input.
_SAME_INPUT = {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_up": "ffn_gate"}


def input_group(name: str) -> str:
    """The name that stands for all matrices with this input."""
    for part, same in _SAME_INPUT.items():
        name = name.replace(f".{part}.", f".{same}.")
    return name


def second_moments(
    runner: Runner,
    texts: Sequence[Sequence[int]],
    names: Iterable[str],
    *,
    progress: Callable[[float], None] = lambda _share: None,
) -> dict[str, Floats]:
    """Σ x·xᵀ [columns, columns] of the inputs of these matrices over all tokens, by their `input_group`.

    `names` are of matrices that are multiplied, not only looked up. `progress` is called with the share of the texts
    that is done.
    """
    wanted = {input_group(name) for name in names}
    sums: dict[str, Floats] = {}

    def add(item: tuple[str, Floats]) -> None:
        name, inputs = item
        product = inputs.T @ inputs
        if name in sums:
            sums[name] += product
        else:
            sums[name] = product

    with ThreadPoolExecutor(processors()) as pool:
        for number, tokens in enumerate(texts if wanted else (), 1):
            list(pool.map(add, runner.inputs(tokens, wanted).items()))
            progress(number / len(texts))
    return sums


def write_importance(path: Path, squares: Mapping[str, Floats], *, dataset: str, chunks: int) -> None:
    """Writes how much each input of a matrix matters, in the GGUF format of llama.cpp's tools/imatrix/imatrix.cpp.

    `squares` are the sums of the squares of each matrix's inputs, [columns], over `chunks` of CHUNK_TOKENS.
    """
    writer = GGUFWriter(path, "")
    # It begins with the architecture, which an importance matrix does not have.
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", CHUNK_TOKENS)
    for name in sorted(squares):
        writer.add_tensor(f"{name}.in_sum2", np.asarray(squares[name], np.float32)[None, :])
        writer.add_tensor(f"{name}.counts", np.full((1, 1), chunks * CHUNK_TOKENS, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_importance(path: Path) -> dict[str, Floats] | None:
    """The squares by name that `write_importance` wrote; None if the file is missing or damaged."""
    if not is_whole_gguf(path):
        return None
    ending = ".in_sum2"
    tensors = GGUFReader(path).tensors
    return {one.name.removesuffix(ending): one.data.flatten() for one in tensors if one.name.endswith(ending)}
