"""`edge-agent bench`: measures this board with a model and prints a table or JSON."""

from __future__ import annotations

import json
import os
import platform
import signal
import tempfile
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.monitor import read_once
from edge_agent.core.clock import timestamp
from edge_agent.core.config import ModelConfig
from edge_agent.core.environment import cores, library_environment
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import EngineSettings, Load, is_echo
from edge_agent.core.terminal import StatusLine, fail
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model
from edge_agent.models.record import in_force
from edge_agent.models.trust import read_trust
from edge_agent.tools.bench.report import summary, table
from edge_agent.tools.bench.tasks import Say, measure_tasks
from edge_agent.worker.client import WorkerError

_STEP_BUDGET_S, _QUICK_STEP_BUDGET_S = 60.0, 2.0


def bench(config_path: Path, model_path: Path | None, *, is_quick: bool, as_json: bool) -> int:
    """Prints what was measured; returns 1 if there is nothing to measure. Raises ConfigError.

    A model path, of a bundle or a .gguf, is measured with the default settings instead of the configuration's model.
    """
    # Signals end it as Ctrl-C does, with its worker and its folder. nohup's ignored signals stay ignored.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    progress = StatusLine()
    try:
        if model_path is None:
            config = load_config(config_path)
            path = in_force(config)
            if path != config.models["default"].path:
                progress.say(f"{path} is measured: it runs since a model-switch, not models.default.path")
            model = config.models["default"].model_copy(update={"path": path})
            settings, root = config.engine, config.board.root
        else:
            model, settings, root = ModelConfig.model_construct(path=model_path), EngineSettings(), Path("/")
        document = _measure(Board(root, Path("/")), model, settings, is_quick=is_quick, say=progress.say)
        progress.clear()
    except (WorkerError, ModelError, OSError) as error:
        progress.clear()
        # With --model, the model is not a key of a configuration.
        return fail(str(error) if model_path is None else str(error).removeprefix("models.default.path: "))
    except KeyboardInterrupt:
        progress.clear()
        return fail("interrupted")
    print(json.dumps(document, indent=2, ensure_ascii=False) if as_json else table(document))
    return 0


def _measure(
    board: Board, configured: ModelConfig, settings: EngineSettings, *, is_quick: bool, say: Say
) -> dict[str, Any]:
    """Every figure, with its unit in its name; None where it was not measured.

    Raises WorkerError, ModelError, OSError.
    """
    path = configured.path
    if is_echo(path):
        raise ModelError(f"{path} is no model: there is nothing to measure; give one with --model")
    before = read_once(board)
    say("the model is checked")
    model = open_model("default", path, read_trust(configured), configured.chat_templates)
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder:
        load = Load(
            model_path=str(model.path),
            settings=settings,
            model_sha256=model.sha256,
            adapters=model.adapters,
            state_dir=folder,
        )
        tasks, worker, ready = measure_tasks(load, say, is_quick=is_quick)
        os.environ.update(library_environment())
        # Importing it loads llama.cpp, which reads the environment.
        from edge_agent.engine.llama import LoadError  # noqa: PLC0415
        from edge_agent.tools.bench.steps import measure_steps  # noqa: PLC0415

        try:
            budget_s = _QUICK_STEP_BUDGET_S if is_quick else _STEP_BUDGET_S
            steps, batch_tokens = measure_steps(load, budget_s=budget_s, say=say)
        except LoadError as error:
            raise ModelError(str(error)) from error
    document: dict[str, Any] = {
        "version": __version__,
        "ts": timestamp(),
        "quick": is_quick,
        "board": {
            "name": board.model() or platform.machine(),
            "machine": platform.machine(),
            "cores": cores(),
            "cpu_variant": ready.cpu_variant,
            "load1": before.cpu.load1,
            "soc_before_c": before.thermal.soc_c,
            "soc_after_c": read_once(board).thermal.soc_c,
        },
        "model": model.describe(),
        "engine": {
            "configured": settings.model_dump(),
            "context_tokens": ready.context_tokens,
            "max_active": ready.max_active,
            "batch_tokens": batch_tokens,
        },
        "tasks": tasks,
        "steps": steps,
        "worker": worker,
    }
    return {**document, "summary": summary(document)}
