"""Adapters on the demonstration model: what they change, what is kept of them, and what must not reach llama.cpp."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.core.pipe import Finished
from edge_agent.engine.llama import Llama, LoadError, Piece
from edge_agent.engine.step import step_costs
from edge_agent.gguf.adapter import check_adapter
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.convert.adapters import AdapterFiles
from tests.engine.adapters import bundle_with, convert, demo_adapter, merged_bundle, to_load
from tests.engine.runs import LABELS, OpenLlama, finished, run
from tests.helpers.ggufs import ADAPTER_VALUES, ARRAY, F32, STRING, U32, gguf, refused


@pytest.fixture(scope="module")
def adapters() -> list[AdapterFiles]:
    return [demo_adapter(), demo_adapter(seed=4, strength=0.04)]


@pytest.fixture(scope="module")
def bundles(adapters: list[AdapterFiles], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Bundles of the same model, each with one of the adapters."""
    return [bundle_with(adapter, tmp_path_factory.mktemp("adapted")) for adapter in adapters]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(checkpoint_folder(), tmp_path_factory.mktemp("plain") / "bundle")


def open_with(model: Path, *adapters: Path) -> Llama:
    names = [str(path) for path in adapters]
    return Llama(str(model / "model.gguf"), context_tokens=256, batch_tokens=64, sequences=4, adapters=names)


def logits(model: Path, *adapters: Path) -> np.ndarray:
    llama = open_with(model, *adapters)
    try:
        tokens = llama.tokenize("Reading: pump 7 vibrates at 12 mm/s and is hot.", parse_special=False)
        (row,) = llama.decode([Piece(0, 0, tokens, [len(tokens) - 1])], threads=2)
        return llama.logits(row + len(tokens) - 1).copy()
    finally:
        llama.close()


@pytest.mark.parametrize("count", [1, 2])
def test_adapters_do_what_weights_with_their_products_do(
    adapters: list[AdapterFiles], bundles: list[Path], plain: Path, tmp_path: Path, count: int
) -> None:
    merged = logits(merged_bundle(adapters[:count], tmp_path))
    files = [bundle / "adapter.gguf" for bundle in bundles[:count]]
    assert np.abs(logits(plain, *files[:-1]) - merged).max() > 1, "the last one changes nothing"
    np.testing.assert_allclose(logits(plain, *files), merged, atol=0.05)


def test_what_is_kept_of_one_adapter_is_not_used_with_another(
    open_llama: OpenLlama,
    plain: Path,
    bundles: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_costs, "measure", lambda *_, **__: [])

    def answer(bundle: Path, state_dir: str | None = None) -> Finished:
        adapters = (to_load(bundle / "adapter.gguf"),)
        engine = open_llama(model=plain / "model.gguf", sha256="5ha", adapters=adapters, state_dir=state_dir)
        return finished(engine, run(1, "pump 3 cavitates", LABELS))[1]

    expected = answer(bundles[1])

    *_, kept = (answer(bundle, str(tmp_path)) for bundle in bundles)

    assert kept.scores == pytest.approx(expected.scores, rel=1e-4)
    assert answer(bundles[0]).scores != pytest.approx(expected.scores, rel=1e-4)
    assert len(list((tmp_path / "prefixes").iterdir())) == 1


def header_with(key: str, kind: int, value: Any) -> bytes:
    """A file of no tensors with the keys that are needed and this one."""
    return gguf({**ADAPTER_VALUES, key: (kind, value)}, [], b"")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"safetensors....................", "should be a GGUF file"),
        (header_with("adapter.lora.alpha", U32, 8), "from 1e-09 to 1e+09 as F32 (got 8 as U32)"),
        (header_with("adapter.lora.alpha", 12, 8.0), "as F32 (got 8.0 as F64)"),
        (header_with("adapter.lora.alpha", F32, np.nan), "as F32 (got NaN)"),
        (header_with("adapter.lora.alpha", F32, 3e38), "as F32 (got 3.0000000054977558e+38)"),
        (header_with("adapter.lora.alpha", F32, 1e-50), "as F32 (got 0.0)"),
        (header_with("adapter.lora.alpha", F32, -8), "as F32 (got -8.0)"),
        (header_with("adapter.type", STRING, "control_vector"), 'should be "lora" (got "control_vector")'),
        (header_with("general.type", STRING, "model"), 'general.type: should be "adapter" (got "model")'),
        (header_with("general.type", U32, 1), 'general.type: should be "adapter" (got 1 as U32)'),
        (header_with("general.architecture", STRING, "llama"), 'should be "qwen2" (got "llama")'),
        (header_with("adapter.alora.invocation_tokens", ARRAY, (U32, [])), "activated by tokens"),
        (header_with("x", U32, 1), "should have tensors (got none)"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_adapter_is_refused_before_llama_cpp_reads_it(tmp_path: Path, data: bytes, told: str) -> None:
    assert told in refused(check_adapter, tmp_path, data)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"blk.1.attn_q.weight.lora_a", b"blk.1.attn_q.weight.lora_c", "should be the lora_a or lora_b of a matrix"),
        (b"blk.1.attn_output.weight.lora", b"blk.1.attn_outpuX.weight.lora", "should be the lora_a or lora_b"),
    ],
)
def test_tensors_that_would_not_be_applied_or_end_the_process_are_refused(
    bundles: list[Path], tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    assert told in refused(check_adapter, tmp_path, (bundles[0] / "adapter.gguf").read_bytes().replace(old, new))


@pytest.mark.expects_warning
def test_what_llama_cpp_refuses_is_named(bundles: list[Path], plain: Path, tmp_path: Path) -> None:
    whole = (bundles[0] / "adapter.gguf").read_bytes()
    path = tmp_path / "adapter.gguf"
    for data, told in (
        (whole[:-1000], "but the file ends at"),
        (whole.replace(b"blk.1.attn_q", b"blk.8.attn_q"), "does not exist in base model"),
        (whole.replace(b"blk.1.attn_q.weight.lora_a", b"blk.9.attn_q.weight.lora_a"), "missing one component"),
        (whole.replace(b"blk.1.attn_k", b"blk.1.attn_X").replace(b"blk.1.ffn_up", b"blk.1.attn_k"), "attn_X"),
    ):
        path.write_bytes(data)
        with pytest.raises(LoadError) as caught:
            open_with(plain, path)
        assert str(path) in str(caught.value)
        assert told in str(caught.value)
    with pytest.raises(LoadError, match="cannot be read: No such file"):
        open_with(plain, tmp_path / "none")
