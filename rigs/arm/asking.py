"""Run by a board's Python: `asking.py MODEL.gguf` prints the worker's kernels and answers as one line of JSON.

Needs only the installed edge-agent.
"""

import json
import sys
from importlib import resources
from pathlib import Path

from edge_agent.core.envelope import Envelope
from edge_agent.core.pipe import EngineSettings, Finished, Load
from edge_agent.requests.task_tables import load_task_configs
from edge_agent.requests.tasks import Task, prefixes_of
from edge_agent.tools.demo.readings import held_out
from edge_agent.worker.client import started

TRIAGE, DIAGNOSIS = "machine-triage", "machine-diagnosis"
# An emulated token takes a hundred times as long. Two threads, because kernels split their work.
_SETTINGS = EngineSettings(context_tokens=512, max_active=1, threads=2, prefill_threads=2, batch_tokens=64)
READINGS = 4


def main() -> int:
    configs = load_task_configs(Path(str(resources.files("edge_agent.tools.demo"))) / "tasks.json")
    tasks = {name: Task(name, configs[name]) for name in (TRIAGE, DIAGNOSIS)}
    readings = [row.payload for row in held_out() if not row.borderline][:READINGS]
    asked = [*((TRIAGE, reading) for reading in readings), (DIAGNOSIS, readings[0])]
    load = Load(model_path=sys.argv[1], settings=_SETTINGS, tasks=prefixes_of(tasks.values()))
    answers: list[Finished] = []
    with started(load) as worker:
        ready = worker.ready()
        for number, (name, reading) in enumerate(asked):
            answer = worker.ask(tasks[name].build_engine_request(number, Envelope(input=reading)))
            assert isinstance(answer, Finished), answer
            answers.append(answer)
    found = {
        "cpu_variant": ready.cpu_variant,
        "repacked_mib": ready.repacked_mib,
        "load_s": round(ready.load_s, 1),
        "scores": [answer.scores for answer in answers if answer.scores is not None],
        "diagnosis": answers[-1].text,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
