"""A model on texts: what its matrices are multiplied with, and how far another one is from it."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from convert.errors import ConvertError
from convert.measure.divergence import compare, predict
from convert.measure.moments import second_moments
from convert.measure.runner import CHUNK_TOKENS, Runner
from convert.measure.texts import calibration_files, chunks, evaluation_files, read_texts

MATRIX = "blk.0.ffn_down.weight"


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Path:
    return demo_bundle / "model.gguf"


@pytest.fixture
def runner(model: Path) -> Iterator[Runner]:
    with Runner(model, is_writable=True) as opened:
        yield opened


def tokens_of(runner: Runner, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(0, runner.token_count, count)]


def test_a_product_is_that_of_the_inputs_and_the_weights(runner: Runner) -> None:
    tokens = tokens_of(runner, 40)
    parts = ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    seen = runner.inputs(tokens, {"token_embd.weight", *(f"blk.0.{part}.weight" for part in parts)})
    embedding = (runner.weights("token_embd.weight").astype(np.uint32) << 16).view(np.float32)
    products = seen["token_embd.weight"] @ embedding.T
    np.testing.assert_allclose(products, runner.logits(tokens), atol=0.05, rtol=0.02)
    assert len(seen) == 6
    np.testing.assert_array_equal(seen["blk.0.ffn_gate.weight"], seen["blk.0.ffn_up.weight"])


def test_moments_do_not_depend_on_the_number_of_threads(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (1, 3):
        for module in ("runner", "moments"):
            monkeypatch.setattr(f"convert.measure.{module}.processors", lambda threads=threads: threads)
        with Runner(model) as runner:
            texts = [tokens_of(runner, 100), tokens_of(runner, 64)]
            names = [f"blk.0.{part}.weight" for part in ("attn_q", "attn_v", "ffn_gate", "ffn_up", "ffn_down")]
            found.append(second_moments(runner, texts, names))

    one, three = found
    assert set(one) == {f"blk.0.{part}.weight" for part in ("attn_q", "ffn_gate", "ffn_down")}
    for name, moments in one.items():
        np.testing.assert_array_equal(moments, three[name])
        assert np.min(np.linalg.eigvalsh(moments)) > -1e-2 * np.max(moments)


def test_a_model_does_not_diverge_from_itself_and_does_from_a_damaged_one(runner: Runner) -> None:
    texts = [tokens_of(runner, 100)]
    reference = predict(runner, texts)

    same = compare(runner, reference)
    with runner.writable_weights(MATRIX) as bits:
        bits[:] = 0
        other = compare(runner, reference)
    again = compare(runner, reference)

    assert same.mean == again.mean == pytest.approx(0, abs=1e-6)
    assert same.agrees.all()
    assert len(same.divergence) == 49, "the first half is context only, and after the last token nothing is known"
    assert other.mean > 0.01


def test_the_sampled_divergence_is_that_of_all_tokens(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [tokens_of(runner, 300)]
    means = []
    for top in (8, runner.token_count):
        monkeypatch.setattr("convert.measure.divergence.TOP", top)
        reference = predict(runner, texts)
        with runner.writable_weights(MATRIX) as bits:
            np.bitwise_and(bits, 0xFFC0, out=bits)
            means.append(compare(runner, reference).mean)

    some, full = means
    assert full > 0
    assert some == pytest.approx(full, rel=0.02)


def test_the_texts_that_come_along_are_cut_the_same_way_for_the_same_seed(runner: Runner) -> None:
    texts = read_texts(calibration_files())
    first, again, other = (chunks(texts, runner, seed=seed, max_chunks=4) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(chunk) for chunk in first] == [CHUNK_TOKENS] * 4
    assert read_texts(evaluation_files()).sha256 != texts.sha256


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"text": 5}\n', 'a.jsonl:1: must be an object with "text", with "input"'),
        ("a.jsonl", b'{"text": "x"}\n{"messages": [{"role": "boss", "content": "x"}]}', "a.jsonl:2: must be an object"),
        ("a.jsonl", b'\n{"text": "\\ud800"}', "a.jsonl:2: should be a line of JSON: a string holds half"),
        ("a.jsonl", b"{", "a.jsonl:1: should be a line of JSON"),
        ("a.txt", b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_texts_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConvertError, match=expected):
        read_texts([tmp_path / name])


def test_what_is_no_file_of_text_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConvertError, match="not a regular file"):
            read_texts([path])
    with pytest.raises(ConvertError, match="No such file"):
        read_texts([tmp_path / "nothing.txt"])


def test_the_same_bytes_under_another_name_are_another_text(tmp_path: Path) -> None:
    line = '{"text": "The pump is well."}\n'
    for name in ("a\nb.jsonl", "a.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + line.encode())
    found = [read_texts([tmp_path / name]) for name in ("a\nb.jsonl", "a.txt")]
    assert [texts.documents[0].text for texts in found] == ["The pump is well.", line]
    assert found[0].sha256 != found[1].sha256
    assert [texts.name for texts in found] == ["a\\nb.jsonl", "a.txt"]


def test_no_document_that_judges_was_tuned_on() -> None:
    tuned, judged = (
        {line for path in files for line in path.read_text("utf-8").splitlines()}
        for files in (calibration_files(), evaluation_files())
    )
    assert tuned
    assert judged
    assert not tuned & judged


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ 'x'.ljust(10 ** 10) }}", "the model's chat template cannot be used: takes more than 64 MB of memory"),
        ("{{ raise_exception('no') }}", "the chat template rejects a conversation of a.jsonl: no"),
    ],
)
def test_a_chat_template_that_rejects_conversations_is_refused(tmp_path: Path, template: str, fault: str) -> None:
    line = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
    runner = SimpleNamespace(chat_template=template, bos_text="")
    with pytest.raises(ConvertError) as caught:
        chunks(read_texts([tmp_path / "a.jsonl"]), cast("Runner", runner), seed=0, max_chunks=1)
    assert str(caught.value) == fault


def test_too_little_text_is_refused(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(ConvertError, match=r"a\.txt: \d+ tokens; at least 512 are needed"):
        chunks(read_texts([tmp_path / "a.txt"]), runner, seed=0, max_chunks=1)
