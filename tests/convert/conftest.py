"""Conversions that measure little, for tests that look at what became of measurements, not at their size."""

from collections.abc import Iterator

import pytest

from tests.convert.conversions import Cli, run
from tests.helpers.processes import Ended


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line; returns its exit code, output and errors."""

    def run_and_read(*words: object) -> Ended:
        capsys.readouterr()
        return Ended(run(*words), *capsys.readouterr())

    return run_and_read


@pytest.fixture(scope="module")
def few_texts() -> Iterator[None]:
    """There are two chunks to tune on, and one to judge by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convert.measure.sensitivity.CALIBRATION_CHUNKS", 2)
        patch.setattr("convert.evaluate.comparison.EVALUATION_CHUNKS", 1)
        yield
