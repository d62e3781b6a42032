"""The texts that the converter is to be tuned on and judged by."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from convert.errors import ConvertError
from convert.measure.runner import Runner
from convert.measure.texts import chunks, read_texts

TEXTS = Path(__file__).parents[2] / "convert" / "texts"
FILES = sorted(path for name in ("calibration", "evaluation") for path in (TEXTS / name).glob("*.jsonl"))


def documents(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_document_is_a_text_or_a_conversation_that_ends_with_an_answer(path: Path) -> None:
    for document in documents(path):
        if "text" in document:
            assert set(document) == {"text"}
            assert isinstance(document["text"], str)
            continue
        assert set(document) == {"messages"}
        messages = document["messages"]
        assert isinstance(messages, list)
        assert all(set(message) == {"role", "content"} for message in messages)
        roles = [message["role"] for message in messages]
        assert set(roles) <= {"system", "user", "assistant"}
        assert roles[-1] == "assistant"


def test_no_document_that_judges_was_tuned_on() -> None:
    def lines(folder: str) -> set[str]:
        found = {line for path in FILES if path.parent.name == folder for line in path.read_text("utf-8").splitlines()}
        assert found
        return found

    assert not lines("calibration") & lines("evaluation")


def test_the_calibration_texts_stay_small() -> None:
    assert sum(path.stat().st_size for path in FILES if path.parent.name == "calibration") <= 300_000


def test_the_same_bytes_under_another_name_are_another_text(tmp_path: Path) -> None:
    line = '{"text": "The pump is well."}\n'
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text(line, encoding="utf-8")
    found = [read_texts([tmp_path / name]) for name in ("a.jsonl", "a.txt")]
    assert [texts.documents[0].text for texts in found] == ["The pump is well.", line]
    assert found[0].sha256 != found[1].sha256
    assert [texts.name for texts in found] == ["a.jsonl", "a.txt"]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    for name, line in (("a.jsonl", '{"text": "well"}'), ("a.txt", "well")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + line.encode())
        assert [document.text for document in read_texts([tmp_path / name]).documents] == ["well"]


def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConvertError, match="not a regular file"):
            read_texts([path])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "\\ud800"}', "line 2: holds half a surrogate pair"),
        ("[" * 200_000, "line 2: not JSON"),
        ('{"text": 5}', "line 2: must be an object"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ConvertError, match=expected):
        read_texts([path])


def test_texts_with_many_or_strange_names_get_a_printable_name(tmp_path: Path) -> None:
    paths = [tmp_path / f"a\nb{number}.txt" for number in range(99)]
    for path in paths:
        path.write_text("text")
    assert read_texts(paths[:1]).name == "a\\nb0.txt"
    name = read_texts(paths).name
    assert name.isprintable()
    assert len(name) <= 200


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
        chunks(read_texts([tmp_path / "a.jsonl"]), cast("Runner", runner), seed=0, most=1)
    assert str(caught.value) == fault
