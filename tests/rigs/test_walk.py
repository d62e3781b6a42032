"""The way of a warm classify through the agent stays short."""

from __future__ import annotations

from rigs.walk import warm_classify

MAX_FILES, MAX_MOVES = 15, 73


def test_a_warm_classify_crosses_few_files() -> None:
    walk = warm_classify()
    assert 8 <= walk.files <= MAX_FILES, walk.entered
    assert walk.moves <= MAX_MOVES, walk.entered
