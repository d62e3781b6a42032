"""Labelled rows of a simulated pump, a model trained on them, an agent, right answers. `make demo-train` starts it.

Exits with 1 if fewer than 10 of 12 readings are answered right.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edge_agent.core.terminal import aligned
from rigs.bench.agent import running_agent
from rigs.machine import ROOT, parser_of
from rigs.training.readings import FAULTS, draw_case

TASK, ROWS, ASKED, MIN_RIGHT = "pump-state", 1000, 12, 10
FIELDS = ("vibration_mm_s", "temperature_c", "current_a", "pressure_bar", "speed_rpm")


def main() -> int:
    parser_of("rigs.demo_train", __doc__).parse_args()
    folder = ROOT / "build" / "demo-train"
    folder.mkdir(parents=True, exist_ok=True)
    table = f'[tasks.{TASK}]\nkind = "classify"\nlabels = {json.dumps(FAULTS)}\n'
    (folder / "tasks.toml").write_text(table, "utf-8")
    draw = random.Random(1)
    rows = [labelled_row(draw) for _ in range(ROWS + ASKED)]
    lines = [json.dumps(row) for row in rows[:ROWS]]
    (folder / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    print(f"{ROWS} rows of a simulated pump, such as\n{lines[0]}\n", flush=True)
    command = [sys.executable, "-m", "edge_convert", "train", "--tasks", str(folder / "tasks.toml")]
    command += ["--labelled", str(folder / "rows.jsonl"), "--out", str(folder / "bundle"), "--force", "--name", "pump"]
    if returncode := subprocess.run(command, check=False).returncode:
        return returncode
    asked = rows[ROWS:]
    with tempfile.TemporaryDirectory() as state, running_agent(folder / "bundle", Path(state), table, {}) as agent:
        replies = [agent.reply(TASK, row["input"]) for row in asked]
    shown = [(*FIELDS, "answer", "probability", "is right", "ms")]
    right = 0
    for row, reply in zip(asked, replies, strict=True):
        answer = reply["output"]
        right += answer == row["answer"]
        judged = "yes" if answer == row["answer"] else f"no: {row['answer']}"
        numbers = (f"{reply['scores'][answer]:.2f}", judged, f"{reply['timing']['total_ms']:.1f}")
        shown.append((*map(str, row["input"].values()), answer, *numbers))
    print(f"\n{ASKED} readings that the model has not seen, over MQTT", *aligned(shown), sep="\n")
    print(f"{right} of {ASKED} are right")
    return 0 if right >= MIN_RIGHT else 1


def labelled_row(draw: random.Random) -> dict[str, Any]:
    reading = draw_case(draw, fault := draw.choice(FAULTS)).reading
    return {"input": {name: getattr(reading, name) for name in FIELDS}, "answer": fault}


if __name__ == "__main__":
    sys.exit(main())
