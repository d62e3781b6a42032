"""Every rig of CONTRIBUTING.md starts, explains itself, and says what it lacks instead of passing."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from rigs import machine

ROOT = Path(__file__).parents[2]
LISTED = re.findall(r"^\| `python -m (rigs[\w.]*)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.MULTILINE)
# Other tests have imported a rig before.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


def exit_of(module: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name="__main__")
    return caught.value.code


@pytest.mark.parametrize("module", sorted(set(LISTED)))
def test_each_rig_explains_its_arguments(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(module, "--help", monkeypatch=monkeypatch) == 0
    assert f"{module} [-h]" in capsys.readouterr().out


def test_the_table_lists_every_rig_and_nothing_else() -> None:
    entries = [path.parent.name for path in (ROOT / "rigs").glob("*/__main__.py")]
    entries += [path.stem for path in (ROOT / "rigs").glob("*.py") if "__main__" in path.read_text("utf-8")]
    listed = {name.split(".")[1] for name in LISTED}
    assert set(entries) == listed


@pytest.mark.parametrize(
    "module",
    [
        "rigs.deploy",
        "rigs.arm",
        "rigs.clients",
        "rigs.power_cuts",
        "rigs.rabbitmq",
        "rigs.homeassistant",
        "rigs.container",
        "rigs.sparkplug",
    ],
)
def test_a_rig_names_the_programs_that_the_machine_lacks(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SEARCH_PATH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install" in str(exit_of(module, monkeypatch=monkeypatch))


@pytest.mark.parametrize("module", ["rigs.deploy", "rigs.arm", "rigs.container"])
def test_a_rig_that_needs_root_says_so(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in str(exit_of(module, monkeypatch=monkeypatch))


@pytest.mark.parametrize("words", [("rigs.training",), ("rigs.rows", "breaks"), ("rigs.rows", "unusual")])
def test_a_rig_names_the_extra_that_it_lacks(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install '.[train]' in a copy of the repository" in str(exit_of(*words, monkeypatch=monkeypatch))


@pytest.mark.parametrize(
    "module", ["rigs.fuzz", "rigs.deploy", "rigs.parity", "rigs.quality", "rigs.bench", "rigs.bench.compare"]
)
def test_what_a_rig_cannot_run_is_refused(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(module, "nowhere", monkeypatch=monkeypatch) == 2
    assert "nowhere" in capsys.readouterr().err
