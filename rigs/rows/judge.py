"""What a new model's promise starts from: on a switch it answers the kept audits that its training cannot have used.

A board answers readings of a simulated pump, and is told what each was. A new model is trained, also from the first of
these, and switched to. Exits with 1 unless exactly the later ones judge it before its first answer.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from typing import Any

from rigs.bench.agent import BASE, AgentSide
from rigs.demo_train import FAULTS, FEEDBACK, agent_with, convert, labelled_row, run, write_lines
from rigs.machine import ROOT

TASK = "pump-state"
ROWS = 1000
MIN_RIGHT = 0.9
TABLE = f'[tasks.{TASK}]\nkind = "classify"\nlabels = {json.dumps(FAULTS)}\n'
BOARD = FEEDBACK + '[commands]\nallow = ["health", "model-switch", "model-rollback"]\n'


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.rows judge", description=__doc__)
    parser.add_argument("--used", type=int, default=100, help="audits that training uses (default: %(default)s)")
    parser.add_argument("--later", type=int, default=300, help="audits after these (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: %(default)s)")
    given = parser.parse_args(words)
    folder = ROOT / "build" / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    (folder / "tasks.toml").write_text(TABLE, "utf-8")
    write_lines(folder / "rows.jsonl", [labelled_row(draw) for _ in range(ROWS)])
    training = ("--steps", str(given.steps), "--name", "pump")
    convert(folder, "train", "--labelled", "rows.jsonl", "--out", "old", *training)
    promise = f"audit_rate = 1\nmin_accuracy = {MIN_RIGHT}\n"
    with agent_with(folder / "old", BOARD + TABLE + promise) as (agent, state):
        audit(agent, draw, given.used)
        found = str(folder / "board.jsonl")
        run("edge_agent", "rows", TASK, "--config", str(state / "config.toml"), "--out", found, "--force")
        audit(agent, draw, given.later)
        rows = ("--labelled", "rows.jsonl", "board.jsonl")
        convert(folder, "train", *rows, "--out", "new", *training, "--model-version", "2")
        seconds, known = command(agent, "model-switch", {"model": "default", "bundle": "new"})
        print(f"\nswitched in {seconds:.1f} s; {json.dumps(known)}")
        back_s, known_back = command(agent, "model-rollback", {"model": "default"})
        print(f"back in {back_s:.1f} s; {json.dumps(known_back)}")
    is_judged = (known["audits"], known["earlier"], known["promised"]) == (given.later, given.later, MIN_RIGHT)
    return 0 if is_judged and known_back["audits"] == given.used + given.later else 1


def audit(agent: AgentSide, draw: random.Random, count: int) -> None:
    """Asks so many readings, and says what each was."""
    result = f"{BASE}/infer/{TASK}/feedback/result"
    agent.client.subscribe(result)
    for row in (labelled_row(draw) for _ in range(count)):
        reply = agent.reply(TASK, row["input"])
        mark = json.dumps({"id": reply["id"], "answer": row["answer"]}).encode()
        assert agent.client.exchange(f"{BASE}/infer/{TASK}/feedback", mark, result).json["status"] == "ok"


def command(agent: AgentSide, name: str, fields: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """How long the command takes, and what health says of the task once its answers are assessed."""
    result, began = f"{BASE}/cmd/{name}/result", time.monotonic()
    agent.client.subscribe(result)
    answer = agent.client.exchange(f"{BASE}/cmd/{name}", json.dumps(fields).encode(), result).json
    assert answer["status"] == "ok", answer
    seconds = time.monotonic() - began
    while True:
        health = agent.client.exchange(f"{BASE}/cmd/health", b"", f"{BASE}/health").json
        known: dict[str, Any] = health["accuracy"][TASK]
        if known["audits"] or time.monotonic() > began + seconds + 10:
            return seconds, known
        time.sleep(0.2)
