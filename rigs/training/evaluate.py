"""Measures a GGUF of the demonstration model on its held-out rows: `python -m rigs.training.evaluate MODEL.gguf`.

The agent's own worker answers. Exit code 1 if fewer than 97 % of the labels, or fewer than 95 % of the diagnoses
(fault, severity and stop together), are right.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from convert.evaluate.requests import read_tasks
from convert.evaluate.worker import Adapted, open_worker
from edge_agent.core.envelope import Envelope
from edge_agent.core.protocol import Finished
from edge_agent.requests.tasks import Task, output_of
from edge_agent.worker.client import Worker

LEAST_RIGHT = {"label": 0.97, "diagnosis": 0.95}
DEMO = Path(__file__).parents[2] / "edge_agent" / "tools" / "demo"

# Group of rows → question → right answers and all answers.
Tally = dict[str, dict[str, list[int]]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.training.evaluate", description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of tasks.json and heldout.jsonl")
    given = parser.parse_args()
    tasks = read_tasks(given.demo / "tasks.json")
    rows = [json.loads(line) for line in (given.demo / "heldout.jsonl").read_text("utf-8").splitlines()]
    tally: Tally = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    with open_worker(Adapted(given.gguf), [task.prefix() for task in tasks.values()]) as worker:
        for row in rows:
            for question, is_right in answers(worker, tasks, row):
                for group in ("all", row["variant"], row["fault"], "borderline" if row["borderline"] else "clear"):
                    tally[group][question][0] += is_right
                    tally[group][question][1] += 1
    for group, questions in tally.items():
        shares = (f"  {name} {right:3}/{total:3} = {right / total:6.1%}" for name, (right, total) in questions.items())
        print(f"{group:16}{''.join(shares)}")
    found = {name: right / total for name, (right, total) in tally["all"].items()}
    return 0 if all(found[name] >= least for name, least in LEAST_RIGHT.items()) else 1


def answers(worker: Worker, tasks: dict[str, Task], row: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each question about a row, and whether its answer is right."""
    label, diagnosis, sentence = (
        ask(worker, tasks[name], row["input"])
        for name in ("machine-triage", "machine-diagnosis", "machine-explanation")
    )
    wanted, found = row["diagnosis"], diagnosis if isinstance(diagnosis, dict) else {}
    return [
        ("label", label == row["fault"]),
        ("diagnosis", all(found.get(key) == wanted[key] for key in ("fault", "severity", "stop"))),
        ("diagnosis exact", found == wanted),
        ("sentence", sentence == row["sentence"]),
    ]


def ask(worker: Worker, task: Task, payload: str) -> Any:
    """The model's answer to a payload as the sensor sends it; None if there is no valid one."""
    value = json.loads(payload) if payload.lstrip().startswith(("{", "[")) else payload
    event = worker.ask(task.run(0, Envelope(input=value)))
    return output_of(event, 0.0) if isinstance(event, Finished) else None


if __name__ == "__main__":
    sys.exit(main())
