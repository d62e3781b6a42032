"""The version stands in one place, and `--version` says what it was made from."""

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest

from edge_agent import __version__
from edge_agent.core import version

ROOT = Path(__file__).parents[2]


def test_the_version_stands_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "edge_agent.__version__"}
    for folder in ("edge_agent", "convert"):
        texts = {path: path.read_text("utf-8") for path in (ROOT / folder).rglob("*.py")}
        found = [path for path, text in texts.items() if f'"{__version__}"' in text]
        assert found == ([ROOT / "edge_agent" / "__init__.py"] if folder == "edge_agent" else [])


def test_the_commit_is_that_of_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "_COMMIT_FILE", tmp_path / "COMMIT")
    assert version.version_line("edge-agent").startswith(f"edge-agent {__version__} (commit unknown, ")
    (tmp_path / "COMMIT").write_text("0123abc\n")
    assert "(commit 0123abc, " in version.version_line("edge-agent")


def test_the_commit_of_llama_cpp_is_named_only_for_the_version_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known, commit = version.LLAMA_CPP
    for installed, expected in ((known, commit), ("0.0.1", "unknown")):
        monkeypatch.setattr(importlib.metadata, "version", {"llama-cpp-python": installed}.__getitem__)
        assert version.version_line("x").endswith(f"llama-cpp-python {installed}, llama.cpp {expected})")

    def no_such(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_such)
    assert version.version_line("x").endswith(", no llama-cpp-python)")


def test_the_named_llama_cpp_is_that_of_the_wheels_for_boards() -> None:
    known, commit = version.LLAMA_CPP
    assert f'"llama-cpp-python=={known}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    wheels = ROOT / "ansible" / "wheels"
    assert f"llama_cpp_python-{known}.tar.gz" in (wheels / "sources.sha256").read_text("utf-8")
    parts = json.loads((wheels / "llama_cpp.cdx.json").read_text("utf-8"))["components"]
    assert [part["version"] for part in parts if part["name"] == "llama.cpp"] == [commit]
