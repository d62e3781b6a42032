"""The answers and the end of a worker that is asked directly."""

import os
import signal

import pytest

from edge_agent.core.pipe import EngineSettings, Load
from edge_agent.worker.client import WorkerError, started

ECHO = Load(model_path="echo:", settings=EngineSettings())


def test_the_end_of_a_worker_is_an_error() -> None:
    with started(ECHO) as worker:
        worker.ready()
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"the worker ended \(killed by SIGKILL\)"):
            worker.answer()
