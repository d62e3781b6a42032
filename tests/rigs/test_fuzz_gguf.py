"""A model that passes the check of its header ends no process: some damages, always the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rigs.fuzz.gguf import ENDED, outcomes
from tests.conftest import convert_demo_model

COUNT = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_demo_model(tmp_path_factory.mktemp("fuzz"), "q4_0") / "model.gguf"


def test_no_damage_of_a_model_s_header_ends_the_process(model: Path) -> None:
    found = list(outcomes(model, COUNT))

    assert [(number, why) for number, outcome, why in found if outcome == ENDED] == []
    counts = Counter(outcome for _, outcome, _ in found)
    assert counts.total() == COUNT
    assert min(counts["refused"], counts["answered"]) > COUNT // 20, counts
