"""Which bundle is in force across restarts: a small file in `state_dir`, and the configured path where there is none.

The first switch writes the file. It is void once the configuration names another path than at the switch.
"""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core.config import Config
from edge_agent.core.files import read_if_exists, sync_folder, write_atomically
from edge_agent.core.model import Model, ModelError, engine_states
from edge_agent.core.wording import field_name, file_fault, shown_path
from edge_agent.models.bundle import content_fault, open_model, path_fault
from edge_agent.models.signatures import public_key_fault
from edge_agent.models.trust import Trust, keep_revocations, read_trust

log = logging.getLogger(__name__)

FILE = "model-1.json"


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    configured: Path
    """The configuration's path at the switch."""
    current: Path
    previous: Path | None
    """What a rollback returns to."""
    least_version: int = 0
    """The version that the last switch or rollback put in force; 0 in a file of 0.1.0."""
    changed_at: str | None = None
    """When that switch or rollback was; None in a file of 0.1.0, or if the clock was unset."""
    changed_by: str | None = None
    """Who sent the command. It is not checked."""


def read_record(config: Config) -> Record | None:
    """The switch in force; None if there was none, it is void, or the file cannot be read."""
    record = _read_file(config.state_dir / FILE)
    return record if record is not None and record.configured == config.models["default"].path else None


def _read_file(path: Path) -> Record | None:
    try:
        content = read_if_exists(path)
        return None if content is None else Record.model_validate_json(content)
    except (OSError, ValidationError) as error:
        log.error("%s cannot be read, so models.default.path is used: %s", path, error)  # noqa: TRY400 - no fault of ours
        return None


def write_record(state_dir: Path, record: Record) -> None:
    """On the disk when it returns; a loss of power before that leaves the old one. Raises OSError."""
    write_atomically(state_dir / FILE, record.model_dump_json(by_alias=True).encode() + b"\n")


def remove_record(state_dir: Path) -> None:
    """The configured path is in force again. Raises OSError."""
    (state_dir / FILE).unlink(missing_ok=True)
    sync_folder(state_dir)


def in_force(config: Config) -> Path:
    """The path that `run` would open first."""
    record = read_record(config)
    return config.models["default"].path if record is None else record.current


def trust_in_force(config: Config) -> Trust:
    """What the model that `run` would open first is checked against. Raises ModelError."""
    record = read_record(config)
    trust = read_trust(config.models["default"], config.state_dir)
    return trust if record is None else _trust_at(record.current, record, trust)


def open_in_force(config: Config) -> Model:
    """The model to run: the bundle that was switched to, its predecessor, or the configured one, in this order.

    Each is tried if the one before it does not open. Raises ModelError if the configured one does not open either.
    """
    configured = config.models["default"]
    trust = read_trust(configured, config.state_dir)
    if trust.fault:
        log.error("%s", trust.fault)
    keep_revocations(config.state_dir, trust)
    record = _read_file(config.state_dir / FILE)
    if record is not None and record.configured != configured.path:
        log.warning("models.default.path was changed since the last model-switch: it is in force from now on")
        record = None
        # Otherwise the old switch would be back as soon as the path is changed back.
        try:
            remove_record(config.state_dir)
        except OSError as error:
            log.warning("%s cannot be removed: %s", config.state_dir / FILE, error)
    if record is None:
        model = open_model("default", configured.path, trust, configured.chat_templates)
        remove_other_engine_states(config.state_dir, [model])
        return model
    faults: list[str] = []
    *first, last = dict.fromkeys(filter(None, (record.current, record.previous, configured.path)))
    for path in first:
        try:
            model = open_model("default", path, _trust_at(path, record, trust), configured.chat_templates)
        except ModelError as error:
            log.error("the bundle in force does not open: %s", error)  # noqa: TRY400 - no fault of ours
            faults.append(str(error))
        else:
            return _marked_as_fallback(model, faults)
    model = open_model("default", last, _trust_at(last, record, trust), configured.chat_templates)
    return _marked_as_fallback(model, faults)


def open_or_placeholder(config: Config) -> tuple[Model, str | None]:
    """The model in force and None; or a placeholder that nothing can load, and why the model does not open."""
    try:
        return open_in_force(config), None
    except ModelError as error:
        path = in_force(config)
        # Without stamps, it equals no model on the disk, so a switch to the same path is carried out.
        placeholder = Model(
            key="default",
            source=path,
            path=path,
            bundle_name=path.name,
            sha256="",
            quantization="none",
            size_bytes=0,
            warning=str(error),
            stamps=(),
        )
        return placeholder, without_config_key(error)


def without_config_key(error: ModelError) -> str:
    """What is wrong with the model, without the key that names it, because a switch may have named it, too."""
    return str(error).removeprefix("models.default.path: ")


def _marked_as_fallback(model: Model, faults: list[str]) -> Model:
    if not faults:
        return model
    warning = f"runs because the bundle that was switched to does not open: {'; '.join(faults)}"
    return replace(model, warning=warning, is_fallback=True)


def _trust_at(path: Path, record: Record, trust: Trust) -> Trust:
    """A signed bundle of an older version must not replace the one that was switched to."""
    is_in_force = path.resolve() == record.current.resolve()
    return replace(trust, min_version=record.least_version) if is_in_force else trust


def remove_other_engine_states(state_dir: Path, models: list[Model]) -> None:
    """Removes what the engine kept of all other models."""
    wanted = {model.engine_state(state_dir) for model in models}
    try:
        others = [folder for folder in engine_states(state_dir).iterdir() if folder not in wanted]
    except OSError:
        return
    for folder in others:
        shutil.rmtree(folder, ignore_errors=True)


def model_path_faults(config: Config) -> Iterator[str]:
    """Configured paths where there is no model."""
    for name, model in config.models.items():
        # After a switch the configured bundle may have been removed.
        if (fault := path_fault(model.path)) and path_fault(in_force(config)):
            yield f"{field_name(('models', name, 'path'))}: {fault}"


def model_key_faults(config: Config) -> Iterator[str]:
    """Public keys of models that cannot be used."""
    for name, model in config.models.items():
        for field, file in model.key_files.items():
            if key := file_fault(f"{field_name(('models', name))}.{field}", file, public_key_fault):
                yield key


def model_refusals(config: Config) -> Iterator[str]:
    """Why `run` would refuse a model that can be read. The hashes are not checked here."""
    try:
        trust = trust_in_force(config)
    except ModelError:
        # The key is a fault of its own.
        trust = Trust()
    for name, model in config.models.items():
        path = in_force(config)
        if path_fault(path) is None and (fault := content_fault(path, trust, model.chat_templates)):
            yield f"{field_name(('models', name, 'path'))}: {fault}"


def revocations_hint(config: Config) -> str | None:
    """The hint that the list of revocations is faulty, or None."""
    try:
        fault = read_trust(config.models["default"], config.state_dir).fault
    except ModelError:
        return None
    return fault and f"{fault}; `model-switch` is refused"


def switched_hint(config: Config) -> str | None:
    """The hint that a model-switch put another model in force than the configuration names, or None."""
    path, configured = in_force(config), config.models["default"].path
    if path == configured or path == configured.resolve():
        return None
    if fault := path_fault(path):
        return f"models.default.path: not used since a model-switch, but {fault}: the previous bundle runs"
    return f"models.default.path: {shown_path(path)} runs instead since a model-switch; changing this path ends that"
