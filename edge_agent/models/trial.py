"""The trial of a model: its bundle is verified, then a worker loads it and answers its canaries, and more if asked."""

from collections.abc import Iterable
from pathlib import Path

from edge_agent.core.config import ModelConfig
from edge_agent.core.model import Model
from edge_agent.core.pipe import EngineRequest, Ready
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import RenderedCanaries, find_canaries
from edge_agent.models.trust import Trust
from edge_agent.worker.client import Answered, WorkerClient


def open_with_canaries(path: Path, config: ModelConfig, trust: Trust) -> tuple[Model, RenderedCanaries | None]:
    """Checks every byte of a bundle; gives its model and its canaries, if it has any.

    Raises ModelError, RevokedError, CanaryError, OSError.
    """
    model = open_model("default", path, trust, config.chat_templates)
    return model, find_canaries(model.source)


def load_and_run_canaries(worker: WorkerClient, canaries: RenderedCanaries | None) -> tuple[Ready, list[str]]:
    """Waits for a started worker to load, then asks each canary; gives how the answers differ. Raises WorkerError."""
    ready = worker.ready()
    if canaries is None:
        return ready, []
    answers = enumerate(map(worker.ask, canaries.requests))
    return ready, [text for index, answer in answers if (text := canaries.answers.difference(index, answer))]


def load_and_ask(
    worker: WorkerClient, canaries: RenderedCanaries | None, requests: Iterable[EngineRequest]
) -> tuple[Ready, list[str], list[Answered]]:
    """Does as `load_and_run_canaries`. If no canary differs, asks these requests and gives their answers, too.

    Raises WorkerError.
    """
    ready, differences = load_and_run_canaries(worker, canaries)
    return ready, differences, [] if differences else [worker.ask(request) for request in requests]
