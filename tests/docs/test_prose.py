"""Sentences of the documentation are short."""

from __future__ import annotations

import re
from statistics import mean

import pytest

from tests.docs.pages import PAGES, page

LONGEST, AVERAGE = 35, 18


def sentences(name: str) -> tuple[list[str], list[str]]:
    """Those of paragraphs and lists, and those of table cells. Code is one word."""
    text = re.sub(r"```.*?```", "\n", page(name), flags=re.DOTALL)
    text = re.sub(r"`[^`]+`", "code", re.sub(r"\]\([^)]*\)", "]", text))
    prose, cells = list[str](), list[str]()
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.)\s)", text):
        if block.startswith("|"):
            cells += [sentence for cell in block.split("|") for sentence in _split(cell)]
        elif not block.startswith("#"):
            prose += _split(block)
    return prose, cells


def _split(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.:!?])\W*\s", text) if re.search(r"\w", sentence)]


def words(sentence: str) -> int:
    return len(re.findall(r"\w[\w'./-]*", sentence))


@pytest.mark.parametrize("name", PAGES)
def test_sentences_are_short(name: str) -> None:
    prose, cells = sentences(name)
    assert not [sentence for sentence in (*prose, *cells) if words(sentence) > LONGEST]
    assert mean(map(words, prose)) <= AVERAGE
