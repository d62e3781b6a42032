"""What a worker's own memory grows by as it answers: `python -m rigs.quality.growth MODEL.gguf [--rounds 3]`.

`held` is memory without pages of files, `asked` all that it might touch of its own, both in MB; the agent replaces a
worker that holds more than what it had asked for when it was ready, and a margin. A round is four long prompts at once,
objects of ten strings, each round's of another schema, and 60 labels to choose from.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
from collections.abc import Iterator

from edge_agent.board.process import process_memory
from edge_agent.core.protocol import (
    ChatMessage,
    EngineSettings,
    Event,
    Failed,
    Finished,
    LabelsPlan,
    Load,
    Ready,
    Refused,
    Run,
    SchemaPlan,
    TextPlan,
)
from edge_agent.worker.process import EngineProcess, WorkerExited
from rigs.machine import model_path

TIMEOUT_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality.growth", description=__doc__)
    parser.add_argument("model", type=model_path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    events: queue.Queue[Event | WorkerExited] = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(model_path=str(given.model), settings=EngineSettings(), model_sha256="none", state_dir=folder)
        worker = EngineProcess(load, events.put)
        worker.start()
        try:
            _wait(events, Ready)
            _print("ready", worker.pid)
            for number in range(given.rounds):
                for name, runs in _round(number):
                    for run in runs:
                        worker.send(run)
                    for _ in runs:
                        _wait(events, Finished, Failed, Refused)
                    _print(f"round {number + 1}: {name}", worker.pid)
        finally:
            worker.stop(5.0)
    return 0


def _wait(events: queue.Queue[Event | WorkerExited], *kinds: type) -> None:
    while not isinstance(event := events.get(timeout=TIMEOUT_S), kinds):
        if isinstance(event, WorkerExited):
            raise SystemExit(f"the worker ended: {event}")


def _round(number: int) -> Iterator[tuple[str, list[Run]]]:
    strings = {f"f{number}_{field}": {"type": "string", "pattern": "[a-z]{1,20}"} for field in range(10)}
    schema = {"type": "object", "properties": strings, "required": list(strings)}
    labels = tuple(f"label {name} of {number}" for name in range(60))
    yield "prompts", [_run(f"{number} valve {at} " * 150, TextPlan(), 20) for at in range(4)]
    yield "objects", [_run(f"{number} {at}", SchemaPlan(schema=schema), 300) for at in range(4)]
    yield "labels", [_run(f"{number} {at}", LabelsPlan(labels=labels), 1) for at in range(4)]


def _run(text: str, plan: TextPlan | SchemaPlan | LabelsPlan, max_tokens: int) -> Run:
    number = hash((text, plan.kind)) & 0xFFFFFFFF
    return Run(
        id=number, task="t", messages=(ChatMessage(role="user", content=text),), plan=plan, max_tokens=max_tokens
    )


def _print(when: str, pid: int | None) -> None:
    memory = process_memory(pid or 0)
    assert memory is not None
    print(f"{when:20} held {memory.anonymous_mib * 1.048576:7.1f} asked {memory.data_mib * 1.048576:7.1f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
