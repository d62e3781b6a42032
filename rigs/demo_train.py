"""The road from no labels to a model that keeps a promise, with a simulated pump. `make demo-train` starts it.

From a week of unlabelled rows with some error codes, a model learns what is usual. A board then asks what unusual
readings were, and a file has what a person would say. From that, a second model learns to name the faults, and a person
checks its first answers. Exits with 1 if fewer than 9 of 10 faults are noticed, or if the promise on the answers is not
proven or not kept.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convert.learning.recipe import MAX_STEPS
from edge_agent.core.kinds.unusual import USUAL
from edge_agent.core.terminal import aligned
from rigs.bench.agent import BASE, AgentSide, running_agent
from rigs.machine import ROOT, parser_of
from rigs.training.readings import draw_case

WATCH, STATE = "pump-watch", "pump-state"
WEEK, LATER, CHECKED, ASKED, SHOWN = 1000, 500, 200, 100, 12
FAULTS = ("normal", "bearing fault", "cavitation", "overload")
MIN_NOTICED, MIN_RIGHT = 0.9, 0.9
CODE, CODE_SHARE = -99, 0.01
FIELDS = ("vibration_mm_s", "temperature_c", "current_a", "pressure_bar", "speed_rpm")
FEEDBACK = "[feedback]\nenabled = true\nkeep_inputs = true\n"
WATCH_TABLE = f'[tasks.{WATCH}]\nkind = "unusual"\nfalse_alarms = "1 per 100 readings"\n'


def main() -> int:
    parser = parser_of("rigs.demo_train", __doc__)
    parser.add_argument("--steps", type=int, default=400, help="of each training (default: %(default)s)")
    steps = parser.parse_args().steps
    folder = ROOT / "build" / "demo-train"
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    (folder / "tasks.toml").write_text(WATCH_TABLE, "utf-8")
    week = [{"input": with_codes(draw, draw_reading(draw, "normal"))} for _ in range(WEEK)]
    write_lines(folder / "week.jsonl", week)
    print(f"A week without labels, {WEEK} rows such as\n{json.dumps(week[0])}\n", flush=True)
    convert(folder, "train", "--unlabelled", "week.jsonl", "--out", "watch", "--name", "watch")
    later = [draw.choice(FAULTS) for _ in range(LATER)]
    # What a person would say of each reading.
    write_lines(folder / "said.jsonl", [{"reading": number, "answer": fault} for number, fault in enumerate(later)])
    with agent_with(folder / "watch", FEEDBACK + WATCH_TABLE) as (agent, state):
        noticed = find(agent, draw, [json.loads(line)["answer"] for line in (folder / "said.jsonl").open()])
        config = ("--config", str(state / "config.toml"))
        run("edge_agent", "rows", WATCH, *config, "--out", str(folder / "found.jsonl"), "--force")
    faults = sum(fault != "normal" for fault in later)
    print(f"{noticed} of {faults} faults were noticed and named\n", flush=True)
    if steps < MAX_STEPS:
        told = f"To save time, the next training makes only {steps} steps, enough for a simulated pump, and warns of it"
        print(f"{told}. For a real machine, leave --steps out: it then makes {MAX_STEPS:,}.\n", flush=True)
    rows = ("--unlabelled", "week.jsonl", "--labelled", "found.jsonl", "--classify", STATE)
    convert(folder, "train", *rows, "--out", "state", "--name", "state", "--steps", str(steps))
    convert(folder, "extend", "state", "--students", "watch", "--out", "pump")
    labels = json.dumps([USUAL if fault == "normal" else fault for fault in FAULTS])
    promise = f"audit_rate = 1\nmin_accuracy = {MIN_RIGHT}\n"
    state_table = f'[tasks.{STATE}]\nkind = "classify"\nlabels = {labels}\n{promise}'
    with agent_with(folder / "pump", FEEDBACK + WATCH_TABLE + state_table) as (agent, _):
        check(agent, draw)
        given, right = ask(agent, draw)
        health = agent.client.exchange(f"{BASE}/cmd/health", b"", f"{BASE}/health").json
    promised = health["accuracy"][STATE]["promised"]
    print(f"{given} of {ASKED} readings got an answer, and {right} of these are right; promised: {promised}")
    return 0 if noticed >= MIN_NOTICED * faults and promised and right >= MIN_RIGHT * given else 1


def find(agent: AgentSide, draw: random.Random, said: list[str]) -> int:
    """Asks about readings, and names the unusual ones as `said` does; returns how many of those are faults."""
    shown: list[tuple[str, ...]] = [(*FIELDS, "is named", "usual range", "was")]
    result, noticed = f"{BASE}/infer/{WATCH}/feedback/result", 0
    agent.client.subscribe(result)
    for fault in said:
        reading = draw_reading(draw, fault)
        reply = agent.reply(WATCH, reading)
        if not reply.get("please_check"):
            continue
        answer = USUAL if fault == "normal" else fault
        mark = json.dumps({"id": reply["id"], "answer": answer}).encode()
        agent.client.exchange(f"{BASE}/infer/{WATCH}/feedback", mark, result)
        noticed += fault != "normal"
        first = reply["output"]["because"][0]
        usual = "{:g} to {:g}".format(*first["usual"]) if first["usual"] else ""
        shown.append((*map(str, reading.values()), first["field"], usual, answer))
    print(f"\nUnusual readings, {SHOWN} of {len(shown) - 1}", *aligned(shown[: SHOWN + 1]), sep="\n")
    return noticed


def check(agent: AgentSide, draw: random.Random) -> None:
    """Answers audits until the promise is proven, or CHECKED of them."""
    result = f"{BASE}/infer/{STATE}/feedback/result"
    agent.client.subscribe(result)
    for number in range(CHECKED + 1):
        row = labelled_row(draw)
        reply = agent.reply(STATE, row["input"])
        if number == CHECKED or (number and "promise-unproven" not in reply["degraded"]):
            break
        mark = json.dumps({"id": reply["id"], "answer": USUAL if row["answer"] == "normal" else row["answer"]}).encode()
        agent.client.exchange(f"{BASE}/infer/{STATE}/feedback", mark, result)
        if number % 50 == 49:
            # The board has assessed the answers by then.
            time.sleep(3)
    print(f"\n{number} answers were checked", flush=True)


def ask(agent: AgentSide, draw: random.Random) -> tuple[int, int]:
    """How many readings get an answer, and how many of the answers are right."""
    shown: list[tuple[str, ...]] = [(*FIELDS, "answer", "probability", "was", "ms")]
    given = right = 0
    for row in (labelled_row(draw) for _ in range(ASKED)):
        reading, was = row["input"], USUAL if row["answer"] == "normal" else row["answer"]
        reply = agent.reply(STATE, reading)
        given += reply["output"] is not None
        right += reply["output"] == was
        best = f"{max(reply['scores'].values()):.2f}"
        shown.append(
            (*map(str, reading.values()), reply["output"] or "–", best, was, f"{reply['timing']['total_ms']:.1f}")
        )
    print(
        f"\nReadings that the model has not seen, over MQTT, {SHOWN} of {ASKED}", *aligned(shown[: SHOWN + 1]), sep="\n"
    )
    return given, right


def labelled_row(draw: random.Random) -> dict[str, Any]:
    fault = draw.choice(FAULTS)
    return {"input": draw_reading(draw, fault), "answer": fault}


def draw_reading(draw: random.Random, fault: str) -> dict[str, Any]:
    reading = draw_case(draw, fault).reading
    return {name: getattr(reading, name) for name in FIELDS}


def with_codes(draw: random.Random, reading: dict[str, Any]) -> dict[str, Any]:
    return {name: CODE if draw.random() < CODE_SHARE else value for name, value in reading.items()}


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")


def convert(folder: Path, command: str, *words: str) -> None:
    tasks = ("--tasks", "tasks.toml") if command == "train" else ()
    run("edge_convert", command, *words, *tasks, "--force", folder=folder)


def run(module: str, *words: str, folder: Path = ROOT) -> None:
    """Raises SystemExit if it fails."""
    if returncode := subprocess.run([sys.executable, "-m", module, *words], cwd=folder, check=False).returncode:
        sys.exit(returncode)


@contextmanager
def agent_with(bundle: Path, tables: str) -> Iterator[tuple[AgentSide, Path]]:
    """An agent, and the folder of its configuration."""
    with tempfile.TemporaryDirectory() as name, running_agent(bundle, Path(name), tables, {}) as agent:
        yield agent, Path(name)


if __name__ == "__main__":
    sys.exit(main())
