"""The whole way with a simulated pump: labelled rows, a model of its own, an agent, right answers.

`make demo-train` starts it. Exits with 1 if fewer than 10 of 12 readings are answered right.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_agent.tools.output import aligned
from rigs.bench.agent import running_agent
from rigs.machine import ROOT
from rigs.plants.sources import PLANTS

TASK, ROWS, ASKED, LEAST_RIGHT = "pump-state", 1000, 12, 10


def main() -> int:
    folder = ROOT / "build" / "demo-train"
    folder.mkdir(parents=True, exist_ok=True)
    table = f'[tasks.{TASK}]\nkind = "classify"\nlabels = {json.dumps(PLANTS["pump"].labels)}\n'
    (folder / "tasks.toml").write_text(table, "utf-8")
    rows = PLANTS["pump"].rows(1)
    lines = [json.dumps(row) for row in rows[:ROWS]]
    (folder / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    print(f"{ROWS} rows of a simulated pump, such as\n{lines[0]}\n", flush=True)
    command = [sys.executable, "-m", "edge_convert", "train", "--tasks", str(folder / "tasks.toml")]
    command += ["--labelled", str(folder / "rows.jsonl"), "--out", str(folder / "bundle"), "--force", "--name", "pump"]
    if returncode := subprocess.run(command, check=False).returncode:
        return returncode
    with tempfile.TemporaryDirectory() as state, running_agent(folder / "bundle", Path(state), table, {}) as agent:
        asked = rows[ROWS : ROWS + ASKED]
        replies = [agent.client.ask(TASK, row["input"]) for row in asked]
    shown = [(*asked[0]["input"], "answer", "probability", "is right", "ms")]
    right = 0
    for row, reply in zip(asked, replies, strict=True):
        answer = reply["output"]
        right += answer == row["answer"]
        judged = "yes" if answer == row["answer"] else f"no: {row['answer']}"
        numbers = (f"{reply['scores'][answer]:.2f}", judged, f"{reply['timing']['total_ms']:.1f}")
        shown.append((*map(str, row["input"].values()), answer, *numbers))
    print(f"\n{ASKED} readings that the model has not seen, over MQTT", *aligned(shown), sep="\n")
    print(f"{right} of {ASKED} are right")
    return 0 if right >= LEAST_RIGHT else 1


if __name__ == "__main__":
    sys.exit(main())
