"""What coverage has found once, is read or refused ever since."""

from __future__ import annotations

import pytest

from rigs.fuzz.coverage import CORPUS
from rigs.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_read_or_refused(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert files
    for file in files:
        TARGETS[name](file.read_bytes())


def test_the_corpus_is_small() -> None:
    sizes = [file.stat().st_size for file in CORPUS.glob("*/*")]
    assert len(sizes) <= 250
    assert sum(sizes) <= 500_000
