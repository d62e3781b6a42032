"""Conversions that measure little: tests that share them look at what became of the measurements, not at their size."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def few_texts() -> Iterator[None]:
    """Two chunks to tune on, one to judge by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convert.measure.sensitivity.CALIBRATION_CHUNKS", 2)
        patch.setattr("convert.evaluate.comparison.EVALUATION_CHUNKS", 1)
        yield
