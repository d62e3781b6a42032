"""The proof of a model: its bundle verifies, it loads, and it answers its canaries as recorded.

A model switch proves a bundle before it is in force; `edge-agent probe` proves one without any effect.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.core.config import ModelConfig
from edge_agent.core.model import Model
from edge_agent.core.protocol import Ready
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import FILE
from edge_agent.models.canary_file import CanaryRound, Questions, read_questions
from edge_agent.worker.client import Worker


def verify(
    path: Path, config: ModelConfig, on_progress: Callable[[], None] = lambda: None
) -> tuple[Model, Questions | None]:
    """Checks every byte of a bundle; gives its model and its canaries, if it has any.

    on_progress: called after each part that is read. Raises ModelError, CanaryError, OSError.
    """
    model = open_model("default", path, config.public_key, config.chat_templates, on_progress)
    file = model.path.parent / FILE
    return model, read_questions(file) if model.folder is not None and file.is_file() else None


def load_and_ask(worker: Worker, canaries: Questions | None) -> tuple[Ready, list[str]]:
    """Waits for a started worker to load, then asks each canary; gives how the answers differ. Raises WorkerError."""
    ready = worker.ready()
    if canaries is None:
        return ready, []
    asked = CanaryRound(canaries)
    while (run := asked.next_run) is not None:
        asked.add(worker.ask(run))
    return ready, asked.differences
