"""`python -m rigs.chaos`: a storm of faults over real processes. Counts requests that are lost, doubled or wrong.

Exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from edge_agent.core.config import ECHO_MODEL
from edge_agent.tools.demo.broker import free_port
from rigs.chaos.asker import Asker
from rigs.chaos.ledger import NO_FAULT, ByFault, Verdict
from rigs.chaos.storm import FAULTS, Storm
from rigs.soak.place import make_model

SHARES = {"worker killed": 50, "agent killed": 20, "broker restarted": 10, "network cut": 20, "broker frozen": 10}
STUCK_AFTER_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.chaos", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=sum(SHARES.values()), help="of all kinds (default: %(default)s)")
    parser.add_argument("--only", choices=FAULTS, help="one kind of fault")
    parser.add_argument("--window", type=int, default=24, help="requests in flight (default: %(default)s)")
    parser.add_argument(
        "--longest-pause",
        metavar="S",
        type=float,
        default=12.0,
        help="longest cut or freeze (default: %(default)s, longer than a keepalive)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5")
    parser.add_argument(
        "--model",
        default="echo:step_ms=5",
        help="the agent's model; demo = the demonstration's (default: %(default)s)",
    )
    parser.add_argument("--folder", type=Path, help="keeps logs and state here (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return run(given, folder)


def run(given: argparse.Namespace, folder: Path) -> int:
    kinds = [given.only] if given.only else [kind for kind, share in SHARES.items() for _ in range(share)]
    shuffled = random.Random(given.seed)
    shuffled.shuffle(kinds)
    if given.faults <= len(FAULTS):  # one of each kind
        kinds = list(kinds if given.only else FAULTS)
    faults = [kinds[number % len(kinds)] for number in range(given.faults)]
    model = make_model("llama", None, folder) if given.model == "demo" else given.model
    storm = Storm(
        folder,
        free_port(),
        given.protocol,
        model,
        longest_pause_s=given.longest_pause,
        seed=given.seed,
    )
    asker = Asker(storm.port, given.protocol, storm.base, requests=given.requests, window=given.window, seed=given.seed)
    assert asker.has_seen_agent.wait(60), "the agent does not come online"
    if not model.startswith(ECHO_MODEL):
        asker.learn()
    began = changed_at = time.monotonic()
    struck: Counter[str] = Counter()
    answered = 0
    while not asker.is_done:
        asker.fill()
        asker.note_taken()
        storm.check()
        if asker.answered != answered:
            answered, changed_at = asker.answered, time.monotonic()
        due = (len(faults) - sum(struck.values())) and answered >= (sum(struck.values()) + 1) * given.requests // (
            len(faults) + 1
        )
        if due:
            fault = faults[sum(struck.values())]
            struck[fault] += 1
            asker.struck(fault)
            storm.strike(fault)
        if sys.stderr.isatty():
            print(f"\r{answered} answered, {sum(struck.values())} faults ", end="", file=sys.stderr)
        if time.monotonic() - changed_at > STUCK_AFTER_S:
            break
        time.sleep(0.01)
    time.sleep(2.0)  # for replies that come twice
    asker.note_taken()
    code = storm.stop()
    asker.close()
    verdict = asker.ledger.verdict()
    is_good = verdict.is_good and code == 0 and sum(struck.values()) == len(faults)
    if given.json:
        print(json.dumps({**asdict(verdict), "good": is_good}))
    else:
        print(f"{time.monotonic() - began:.0f} s, MQTT {given.protocol}, seed {given.seed}")
        for line in table(verdict):
            print(line)
        print("ended:", ", ".join(f"{count} {status}" for status, count in sorted(verdict.statuses.items())))
        for note in asker.ledger.notes:
            print(note)
        if lost := asker.ledger.lost():
            print(f"lost: {', '.join(lost[:20])}")
        print("every promise was kept" if is_good else "a promise was broken")
    return 0 if is_good else 1


def table(verdict: Verdict) -> Iterator[str]:
    """A line for each fault, and one for all."""
    columns = [one.name for one in fields(ByFault)]
    yield f"{'last fault':18}" + "".join(f"{name.replace('_', ' '):>16}" for name in columns)
    faults = sorted(verdict.by_fault.items(), key=lambda item: item[0] == NO_FAULT)
    for fault, one in faults:
        row = {**asdict(one), "times": ""} if fault == NO_FAULT else asdict(one)
        yield f"{fault:18}" + "".join(f"{row[name]:>16}" for name in columns)
    sums = {
        name: sum(getattr(one, name) for fault, one in faults if fault != NO_FAULT or name != "times")
        for name in columns
    }
    yield f"{f'of {verdict.asked} asked':18}" + "".join(f"{sums[name]:>16}" for name in columns)


if __name__ == "__main__":
    sys.exit(main())
