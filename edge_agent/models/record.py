"""Which bundle is in force, over restarts: one small file in `state_dir`, and the configuration where it says nothing.

The file exists from the first switch on, and is whole at any moment: the new one is on the disk before it takes the
name. It is void once the configuration names another path than at the switch: who edits that means it.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core import state_files
from edge_agent.core.config import Config
from edge_agent.core.model import Model, ModelError, engine_states
from edge_agent.models.bundle import open_model

log = logging.getLogger(__name__)

FILE = "model-1.json"


class Record(BaseModel):
    """configured: what the configuration named at the switch. previous: what a rollback goes back to."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    configured: Path
    current: Path
    previous: Path | None


def read(config: Config) -> Record | None:
    """The switch that is in force; None = there was none, or it is void, or the file cannot be read."""
    record = _read_file(config.state_dir / FILE)
    return record if record is not None and record.configured == config.models["default"].path else None


def _read_file(path: Path) -> Record | None:
    try:
        content = state_files.read(path)
        return None if content is None else Record.model_validate_json(content)
    except (OSError, ValidationError) as error:
        log.error("%s cannot be read, models.default.path is used: %s", path, error)  # noqa: TRY400 - no fault of ours
        return None


def write(state_dir: Path, record: Record) -> None:
    """On the disk when it returns; before that, a loss of power leaves the old one. Raises OSError."""
    state_files.replace(state_dir / FILE, record.model_dump_json(by_alias=True).encode() + b"\n")


def forget(state_dir: Path) -> None:
    """From now on the configuration counts. Raises OSError."""
    (state_dir / FILE).unlink(missing_ok=True)
    state_files.sync_folder(state_dir)


def in_force(config: Config) -> Path:
    """What `run` would open first: a bundle, or what the configuration names."""
    record = read(config)
    return config.models["default"].path if record is None else record.current


def open_in_force(config: Config) -> Model:
    """The model to run: that of the last switch; if it does not open, the one before; else the configured one.

    Raises ModelError if the last of them does not open.
    """
    configured = config.models["default"]
    record = _read_file(config.state_dir / FILE)
    if record is not None and record.configured != configured.path:
        log.warning("models.default.path is not what it was at the last model-switch: it counts from now on")
        record = None
        # Else a path that is changed back would bring back what nobody thinks of any more.
        try:
            forget(config.state_dir)
        except OSError as error:
            log.warning("%s cannot be removed: %s", config.state_dir / FILE, error)
    paths = [] if record is None else [record.current, *filter(None, [record.previous])]
    faults: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            model = open_model("default", path, configured.public_key, configured.chat_templates)
        except ModelError as error:
            log.error("the bundle in force does not open: %s", error)  # noqa: TRY400 - no fault of ours
            faults.append(str(error))
        else:
            return _warned(model, faults)
    model = _warned(open_model("default", configured.path, configured.public_key, configured.chat_templates), faults)
    if record is None:
        keep_engine_states(config.state_dir, [model])
    return model


def _warned(model: Model, faults: list[str]) -> Model:
    if not faults:
        return model
    warning = f"runs because what was switched to does not open: {'; '.join(faults)}"
    return replace(model, warning=warning, is_fallback=True)


def keep_engine_states(state_dir: Path, models: list[Model]) -> None:
    """Removes what was kept of other models."""
    wanted = {model.engine_state(state_dir).name for model in models}
    try:
        others = [folder for folder in engine_states(state_dir).iterdir() if folder.name not in wanted]
    except OSError:
        return
    for folder in others:
        shutil.rmtree(folder, ignore_errors=True)
