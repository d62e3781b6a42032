"""The texts that the converter is to be tuned on and judged by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
