"""Memory that a model takes here beside its file: `python -m rigs.quality.memory MODEL.gguf…`.

A worker of the agent loads it, with the defaults of `[engine]`. `anonymous` is its resident memory without pages of
files; `repacked` is the part that llama.cpp copied for its kernels on this machine; `rest` is what remains: keys and
values, buffers, vocabulary, program.
"""

from __future__ import annotations

import argparse
import queue
from pathlib import Path

from edge_agent.board.process import ProcessMemory, process_memory
from edge_agent.core.protocol import EngineSettings, Event, Load, Loading, Ready
from edge_agent.models.bundle import MODEL_FILE, open_model
from edge_agent.worker.process import EngineProcess, WorkerExited
from rigs.machine import model_path

LOAD_TIMEOUT_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality.memory", description=__doc__)
    parser.add_argument("models", type=model_path, nargs="+")
    given = parser.parse_args()
    print(f"{'MB of':32} {'file':>7} {'anonymous':>10} {'repacked':>9} {'rest':>7}")
    for path in given.models:
        model = open_model("default", path)
        memory, repacked_mib = _loaded(model.path)
        anonymous, repacked = (mib * 1.048576 for mib in (memory.anonymous_mib, repacked_mib))
        name = path.parent.name if path.name == MODEL_FILE else path.name
        sizes = f"{model.size_bytes / 1e6:7.1f} {anonymous:10.1f} {repacked:9.1f} {anonymous - repacked:7.1f}"
        print(f"{name:32} {sizes}", flush=True)
    return 0


def _loaded(model: Path) -> tuple[ProcessMemory, float]:
    """The memory of a worker that has loaded the model, and the repacked part in MiB."""
    events: queue.Queue[Event | WorkerExited] = queue.Queue()
    engine = EngineProcess(Load(model_path=str(model), settings=EngineSettings()), events.put)
    engine.start()
    try:
        while isinstance(event := events.get(timeout=LOAD_TIMEOUT_S), Loading):
            pass
        if not isinstance(event, Ready):
            raise SystemExit(f"{model}: {event}")
        memory = process_memory(event.pid)
        assert memory is not None
        return memory, event.repacked_mib or 0.0
    finally:
        engine.stop(5.0)


if __name__ == "__main__":
    raise SystemExit(main())
