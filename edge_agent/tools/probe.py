"""`edge-agent probe`: do a bundle's canaries get their recorded answers on this board?"""

from __future__ import annotations

from pathlib import Path

from edge_agent.core.config import ModelConfig
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import EngineSettings, Load
from edge_agent.core.wording import printable
from edge_agent.loader import load_config
from edge_agent.models.canaries import FILE, CanaryError
from edge_agent.models.record import in_force
from edge_agent.models.trial import load_and_ask, verify_with_canaries
from edge_agent.models.trust import read_trust
from edge_agent.tools.output import fail
from edge_agent.worker.client import WorkerError, started


def probe(config_path: Path | None, bundle: Path | None) -> int:
    """Verifies, loads and asks a bundle, or the one in force, and prints which answers differ; 0 if none does.

    Without a configuration neither `public_key` nor `[engine]` applies. Raises ConfigError.
    """
    config = None if config_path is None else load_config(config_path)
    path = bundle or (in_force(config) if config else Path())
    configured = config.models["default"] if config else ModelConfig(path=path)
    settings = config.engine if config else EngineSettings()
    try:
        trust = read_trust(configured, config.state_dir if config else None)
        model, canaries = verify_with_canaries(path, configured, trust)
        if canaries is None:
            raise CanaryError(f"{FILE}: the bundle has none; nothing says what its answers should be")
        load = Load(
            model_path=str(model.path),
            # The service may run beside it: memory for one request is enough.
            settings=settings.model_copy(update={"max_active": 1}),
            model_sha256=model.sha256,
            adapters=model.adapters,
        )
        with started(load) as worker:
            _, differences = load_and_ask(worker, canaries)
    except (ModelError, CanaryError, WorkerError, OSError) as error:
        # The command line names the bundle, not the key of a configuration.
        return fail(str(error) if bundle is None else str(error).removeprefix("models.default.path: "))
    for difference in differences:
        fail(difference)
    asked = len(canaries.runs)
    print(printable(f"{model.bundle_name}: {asked - len(differences)} of {asked} canaries answered as recorded"))
    return 1 if differences else 0
