"""Fixtures for the engine: the demonstration model, and engines to try the same contract on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.environment import library_environment

# As the agent starts its worker. It is read when the library is loaded, which these imports do.
os.environ.update(library_environment())

from edge_agent.core.pipe import Adapter, EngineSettings, Load, TaskPrefix
from edge_agent.engine.echo import EchoEngine
from edge_agent.engine.engine import Engine
from edge_agent.engine.llama_engine import LlamaEngine
from tests.engine.runs import TASK, OpenLlama


@pytest.fixture(scope="session")
def model_path(demo_bundle: Path) -> str:
    return str(demo_bundle / "model.gguf")


@pytest.fixture
def open_llama(model_path: str) -> Iterator[OpenLlama]:
    """Opens engines, over the demonstration model where none is given; closed at the end of the test."""
    opened: list[LlamaEngine] = []

    def open_(
        *,
        tasks: tuple[TaskPrefix, ...] = (TASK,),
        state_dir: str | None = None,
        sha256: str | None = None,
        model: Path | None = None,
        adapters: tuple[Adapter, ...] = (),
        **settings: Any,
    ) -> LlamaEngine:
        # All that would be measured is given, so that tests run the same everywhere.
        chosen = {"context_tokens": 1024, "threads": 1, "prefill_threads": 2, "batch_tokens": 128, **settings}
        load = Load(
            model_path=model_path if model is None else str(model),
            # It is not validated, because some tests want narrower steps than a configuration may ask for.
            settings=EngineSettings.model_construct(**chosen),
            tasks=tasks,
            adapters=adapters,
            model_sha256=sha256,
            state_dir=state_dir,
        )
        opened.append(LlamaEngine(load))
        return opened[-1]

    yield open_
    for engine in opened:
        engine._llama.close()


@pytest.fixture(params=["echo", "llama"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine that ships."""
    if request.param == "llama":
        opened: LlamaEngine = request.getfixturevalue("open_llama")()
        return opened
    settings = EngineSettings(context_tokens=1024)
    return EchoEngine(Load(model_path="echo:", settings=settings, tasks=(TASK,)))
