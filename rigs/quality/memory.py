"""Memory that a model takes here beside its file: `python -m rigs.quality.memory MODEL.gguf…`.

A worker of the agent loads it, with the defaults of `[engine]`. `anonymous` is what is resident of it without pages of
files, `repacked` of that what llama.cpp says to have copied out of the file for its kernels on this machine, `rest`
what remains: keys and values, buffers, vocabulary, program; `predicted` what `edge-convert boards` takes for it, `off`
by how much that is wrong, as a share of rest and weights. `report` what the quality.json beside it tells: what would be
copied on the board that the bundle was made for.
"""

from __future__ import annotations

import argparse
import queue
from pathlib import Path

from convert.read.model_cost import read_cost
from convert.report import quality
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
    columns = f"{'file':>7} {'anonymous':>10} {'repacked':>9} {'rest':>7} {'predicted':>9} {'off':>6} {'report':>7}"
    print(f"{'MB of':32} {columns}")
    for path in given.models:
        model = open_model("default", path)
        memory, repacked_mib = _loaded(model.path)
        anonymous, repacked = (mib * 1.048576 for mib in (memory.anonymous_mib, repacked_mib))
        told = _told(path.with_name(quality.FILE))
        cost, settings = read_cost(path), EngineSettings()
        predicted = (cost.cache_bytes(min(4096, cost.context_length)) + cost.rest_bytes(settings.max_active)) / 1e6
        rest = anonymous - repacked
        off = (predicted - rest) / (cost.bytes_per_token / 1e6 + rest)
        here = f"{anonymous:10.1f} {repacked:9.1f} {rest:7.1f} {predicted:9.1f} {off:6.1%}"
        report = "–" if told is None else f"{told / 1e6:.1f}"
        name = path.parent.name if path.name == MODEL_FILE else path.name
        print(f"{name:32} {model.size_bytes / 1e6:7.1f} {here} {report:>7}", flush=True)
    return 0


def _loaded(model: Path) -> tuple[ProcessMemory, float]:
    """Of a worker that has loaded it, and what is repacked of it in MiB."""
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


def _told(file: Path) -> int | None:
    try:
        own = quality.decode(file.read_bytes()).own_size
    except OSError:
        return None
    return None if own is None else own.ram_bytes


if __name__ == "__main__":
    raise SystemExit(main())
