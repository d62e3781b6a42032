"""Which bundle is in force after a restart, whatever happened before it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.config import Config
from edge_agent.core.model import ModelError
from edge_agent.loader import all_file_faults, load_config
from edge_agent.models.record import (
    FILE,
    Record,
    in_force,
    open_in_force,
    read_record,
    remove_other_engine_states,
    switched_hint,
    write_record,
)
from tests.models.test_bundle import GGUF, bundle

Configured = Callable[[str], Config]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """A configuration beside the bundles `a`, `b` and `c`, of which it names one."""
    for name in "abc":
        bundle(tmp_path / name)

    def configured(name: str) -> Config:
        path = tmp_path / "config.toml"
        text = f'state_dir = "state"\n[device]\nsite = "s"\nid = "d"\n[models.default]\npath = "{name}"\n'
        path.write_text(text, "utf-8")
        return load_config(path)

    return configured


def switched(config: Config, current: str, previous: str | None) -> None:
    folder = config.state_dir.parent
    record = Record(
        configured=config.models["default"].path,
        current=folder / current,
        previous=None if previous is None else folder / previous,
    )
    write_record(config.state_dir, record)


def test_without_a_switch_the_configuration_counts(configured: Configured, tmp_path: Path) -> None:
    config = configured("a")
    assert (read_record(config), in_force(config), switched_hint(config)) == (None, tmp_path / "a", None)
    assert open_in_force(config).source == tmp_path / "a"


@pytest.mark.expects_warning
def test_a_switch_counts_until_the_configuration_names_another_path_and_not_again_after_that(
    configured: Configured, tmp_path: Path
) -> None:
    switched(configured("a"), "b", "a")
    config = configured("a")
    assert open_in_force(config).source == in_force(config) == tmp_path / "b"
    assert f'models.default.path: "{tmp_path / "b"}" runs instead' in (switched_hint(config) or "")
    shutil.move(tmp_path / "b", tmp_path / "elsewhere")
    assert 'b" does not exist' in (switched_hint(config) or "")
    shutil.move(tmp_path / "elsewhere", tmp_path / "b")
    # Looking does not make it forget.
    assert in_force(configured("c")) == tmp_path / "c"
    assert in_force(configured("a")) == tmp_path / "b"
    assert open_in_force(configured("c")).source == tmp_path / "c"
    assert open_in_force(configured("a")).source == tmp_path / "a"
    assert not (config.state_dir / FILE).exists()


def test_a_link_that_follows_switches_ends_none_and_names_what_runs(configured: Configured, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to("a")
    config = configured("current")
    opened = open_in_force(config)
    assert (opened.source, opened.describe()["folder"]) == (tmp_path / "a", "a")
    switched(config, "b", opened.source.name)
    assert switched_hint(config)
    link.unlink()
    link.symlink_to("b")
    assert open_in_force(config).source == in_force(config) == tmp_path / "b"
    assert switched_hint(config) is None
    shutil.rmtree(config.state_dir)
    assert open_in_force(config).source == tmp_path / "b"


@pytest.mark.expects_warning
def test_a_bundle_in_force_that_does_not_open_gives_way_to_the_one_before_and_then_to_the_configured_one(
    configured: Configured, tmp_path: Path
) -> None:
    config = configured("c")
    switched(config, "b", "a")
    (tmp_path / "b" / "model.gguf").write_bytes(GGUF + b"!")
    model = open_in_force(config)
    assert (model.source, model.is_fallback) == (tmp_path / "a", True)
    assert "b/model.gguf: should have" in (model.warning or "")
    shutil.rmtree(tmp_path / "a")
    model = open_in_force(config)
    assert model.source == tmp_path / "c"
    assert "should have" in (model.warning or "")
    assert "does not exist" in (model.warning or "")
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(ModelError, match=r"c.* does not exist"):
        open_in_force(config)
    assert read_record(config) == Record(configured=tmp_path / "c", current=tmp_path / "b", previous=tmp_path / "a")


@pytest.mark.expects_warning
def test_after_a_rollback_to_the_configured_bundle_the_one_before_opens_if_that_is_damaged(
    configured: Configured, tmp_path: Path
) -> None:
    config = configured("a")
    switched(config, "a", "b")
    (tmp_path / "a" / "model.gguf").write_bytes(GGUF + b"!")
    model = open_in_force(config)
    assert (model.source, model.is_fallback) == (tmp_path / "b", True)


def test_a_record_of_an_older_agent_has_no_least_version(configured: Configured, tmp_path: Path) -> None:
    config = configured("c")
    switched(config, "b", "a")
    path = config.state_dir / FILE
    document = json.loads(path.read_bytes())
    assert document.pop("least_version") == 0
    path.write_text(json.dumps(document), "utf-8")
    assert read_record(config) == Record(configured=tmp_path / "c", current=tmp_path / "b", previous=tmp_path / "a")
    assert open_in_force(config).source == tmp_path / "b"


def test_a_configured_bundle_that_is_gone_is_a_fault_only_if_it_counts(configured: Configured, tmp_path: Path) -> None:
    config = configured("a")
    shutil.rmtree(tmp_path / "a")
    assert len(all_file_faults(config)) == 1
    switched(config, "b", None)
    assert all_file_faults(config) == []


@pytest.mark.expects_warning
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 90, b"{}", b'{"schema":2,"configured":"a","current":"b","previous":null}']
)
def test_an_unreadable_file_leaves_the_configured_model(configured: Configured, tmp_path: Path, content: bytes) -> None:
    config = configured("a")
    config.state_dir.mkdir()
    (config.state_dir / FILE).write_bytes(content)
    assert open_in_force(config).source == tmp_path / "a"


def test_a_record_replaces_the_old_once_it_is_on_disk(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/rigs/test_power_cuts.py ends the process at any operation."""
    operations: list[str] = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        operation = getattr(owner, name)

        def watched(*arguments: Any, name: str = name, operation: Callable[..., Any] = operation) -> Any:
            operations.append(name)
            return operation(*arguments)

        monkeypatch.setattr(owner, name, watched)
    switched(configured("a"), "b", "a")
    assert operations == ["fsync", "replace", "fsync"]


def test_engine_states_of_other_models_are_removed(configured: Configured, tmp_path: Path) -> None:
    model = open_in_force(configured("a"))
    mine = model.engine_state(tmp_path)
    other = mine.parent / "other"
    for folder in (mine, other):
        folder.mkdir(parents=True)
        (folder / "calibration.json").write_bytes(b"{}")
    remove_other_engine_states(tmp_path, [model])
    assert (mine.exists(), other.exists()) == (True, False)
    remove_other_engine_states(tmp_path / "nowhere", [model])
