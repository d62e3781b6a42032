"""`edge-agent probe`: does a bundle's model answer on this board as it did where the bundle was made?"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_agent.core.config import EngineConfig
from edge_agent.core.errors import printable
from edge_agent.core.model import Model, ModelError
from edge_agent.core.protocol import EngineSettings, Load
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import FILE, CanaryError
from edge_agent.models.canary_file import Questions, read_questions
from edge_agent.models.record import in_force
from edge_agent.worker.client import WorkerError, started


def probe(config_path: Path | None, bundle: Path | None) -> int:
    """Opens and loads the bundle, asks its canaries and prints what differs; 0 if nothing does.

    bundle: None = the configuration's. config_path: None = neither `public_key` nor `[engine]` of one count.
    Raises ConfigError.
    """
    config = None if config_path is None else load_config(config_path)
    configured = None if config is None else config.models["default"]
    path = bundle or (in_force(config) if config else Path())
    engine = config.engine if config else EngineConfig()
    # Whoever probes is likely beside a service: no more room is taken than one request needs.
    settings = EngineSettings(**{**engine.model_dump(), "max_active": 1})
    try:
        model = open_model(
            "default",
            path,
            configured.public_key if configured else None,
            configured.chat_templates if configured else None,
        )
        canaries = _canaries(model)
        found = _differences(model, canaries, settings)
    except (ModelError, CanaryError, WorkerError, OSError) as error:
        # On the command line the bundle is no key of a configuration.
        told = str(error) if bundle is None else str(error).removeprefix("models.default.path: ")
        print(printable(f"edge-agent: {told}"), file=sys.stderr)
        return 1
    for difference in found:
        print(printable(f"edge-agent: {difference}"), file=sys.stderr)
    asked = len(canaries.canaries)
    print(printable(f"{model.bundle_name}: {asked - len(found)} of {asked} canaries answered as recorded"))
    return 1 if found else 0


def _canaries(model: Model) -> Questions:
    """Raises CanaryError."""
    try:
        return read_questions(model.path.parent / FILE)
    except OSError as error:
        told = "the bundle has none" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise CanaryError(f"{FILE}: {told}; nothing tells what its answers should be") from None


def _differences(model: Model, canaries: Questions, settings: EngineSettings) -> list[str]:
    """Raises WorkerError, OSError."""
    load = Load(
        model_path=str(model.path),
        settings=settings,
        tasks=canaries.prefixes,
        model_sha256=model.sha256,
        adapters=model.adapters,
    )
    with started(load) as worker:
        worker.ready()
        answers = [worker.ask(canaries.run(index, index)) for index in range(len(canaries.canaries))]
    found = [canaries.difference(index, answer) for index, answer in enumerate(answers)]
    return [difference for difference in found if difference is not None]
