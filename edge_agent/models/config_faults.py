"""Faults of the models and keys that a configuration names, as far as they show without hashing."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.core.config import Config
from edge_agent.core.errors import field_name, file_fault, shown_path
from edge_agent.models.bundle import content_fault, path_fault
from edge_agent.models.record import in_force
from edge_agent.models.signatures import public_key_fault


def model_faults(config: Config) -> Iterator[str]:
    """Models that cannot be read and keys that cannot be used."""
    for name, model in config.models.items():
        # After a switch the configured bundle may have been removed.
        if (fault := path_fault(model.path)) and path_fault(in_force(config)):
            yield f"{field_name(('models', name, 'path'))}: {fault}"
        if key := file_fault(field_name(("models", name, "public_key")), model.public_key, public_key_fault):
            yield key


def model_refusals(config: Config) -> Iterator[str]:
    """Why `run` would refuse a model that can be read. The hashes are not checked here."""
    for name, model in config.models.items():
        path = in_force(config)
        if path_fault(path) is None and (fault := content_fault(path, model.public_key, model.chat_templates)):
            yield f"{field_name(('models', name, 'path'))}: {fault}"


def switched_hint(config: Config) -> str | None:
    """The hint that a model-switch put another model in force than the configuration names, or None."""
    path, configured = in_force(config), config.models["default"].path
    if path == configured or path == configured.resolve():
        return None
    if fault := path_fault(path):
        return f"models.default.path: does not count since a model-switch, but {fault}: the bundle before it runs"
    return (
        f"models.default.path: {shown_path(path)} runs instead, since a model-switch; "
        "another path here, or model-rollback, ends that"
    )
