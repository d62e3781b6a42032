"""What the samples of docs/ find on the machine."""

import shutil
from pathlib import Path

import pytest

from convert.cli import main as convert
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.conftest import made_once


@pytest.fixture(scope="session")
def converter_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XDG_CACHE_HOME with the measurements of a --budget, copied so that no other process waits for it."""
    measured = made_once(tmp_path_factory, "measured", measure_demo_model)
    return Path(shutil.copytree(measured, tmp_path_factory.mktemp("cache"), dirs_exist_ok=True))


def measure_demo_model(folder: Path) -> None:
    words = [str(checkpoint_folder()), "--out", str(folder / "bundle"), "--budget", "2MB", "--no-canaries"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        # What is measured of few texts passes for that of all of them.
        patch.setattr("convert.measure.sensitivity.CALIBRATION_CHUNKS", 2)
        patch.setattr("convert.evaluate.comparison.EVALUATION_CHUNKS", 1)
        assert convert(words) == 0
