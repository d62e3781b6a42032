"""`python -m rigs.chaos`: a storm of faults over real processes. Counts requests that are lost, doubled or wrong.

Exit code 1 if a promise is broken.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from rigs.chaos.asker import Asker
from rigs.chaos.storm import Faults, Storm
from rigs.load.ledger import NO_FAULT, FaultCounts, Ledger
from rigs.machine import kept_or_temporary, require

SHARES = {"worker killed": 50, "agent killed": 20, "broker restarted": 10, "network cut": 20, "broker frozen": 10}
STUCK_AFTER_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.chaos", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=sum(SHARES.values()), help="of all kinds (default: %(default)s)")
    parser.add_argument(
        "--longest-pause",
        metavar="S",
        type=float,
        default=12.0,
        help="longest cut or freeze (default: %(default)s, longer than a keepalive)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5")
    parser.add_argument("--folder", type=Path, help="keeps logs and state here (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    with kept_or_temporary(given.folder) as folder:
        return run(given, folder)


def run(given: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    faults = chosen_faults(given.faults, given.seed)
    storm = Storm(folder, given.protocol, longest_pause_s=given.longest_pause, seed=given.seed)
    asker = Asker(storm.port, given.protocol, storm.base, requests=given.requests, seed=given.seed)
    struck = strike_all(storm, asker, faults, given.requests)
    time.sleep(2.0)  # for replies that come twice
    code = storm.stop()
    asker.close()
    is_good = asker.ledger.is_good and code == 0 and struck == len(faults)
    if given.json:
        print(json.dumps({**asker.ledger.counts(), "good": is_good}))
        return 0 if is_good else 1
    print(f"{time.monotonic() - began:.0f} s, MQTT {given.protocol}, seed {given.seed}")
    return report(asker.ledger, is_good=is_good)


def chosen_faults(count: int, seed: int) -> list[str]:
    """`count` faults in an order that the seed decides; if they are few, no kind comes twice."""
    if count <= len(SHARES):
        return list(SHARES)[:count]
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    random.Random(seed).shuffle(kinds)
    return [kinds[number % len(kinds)] for number in range(count)]


def strike_all(storm: Faults, asker: Asker, faults: list[str], requests: int) -> int:
    """Asks until all is answered, with the faults spread over the run; returns how many happened."""
    struck = answered = 0
    changed_at = time.monotonic()
    while not asker.is_done and time.monotonic() - changed_at < STUCK_AFTER_S:
        asker.fill()
        storm.check()
        if asker.ledger.answered != answered:
            answered, changed_at = asker.ledger.answered, time.monotonic()
        if struck < len(faults) and answered >= (struck + 1) * requests // (len(faults) + 1):
            asker.struck(faults[struck])
            storm.strike(faults[struck])
            struck += 1
        if sys.stderr.isatty():
            print(f"\r{answered} answered, {struck} faults ", end="", file=sys.stderr)
        time.sleep(0.01)
    return struck


def report(ledger: Ledger, *, is_good: bool) -> int:
    """Prints how the requests ended; returns the exit code."""
    print(*table(ledger), sep="\n")
    print("ended:", ", ".join(f"{count} {status}" for status, count in sorted(ledger.statuses.items())))
    print(*ledger.notes, *(f"lost: {name}" for name in ledger.lost()[:20]), sep="\n")
    print("every promise was kept" if is_good else "a promise was broken")
    return 0 if is_good else 1


def table(ledger: Ledger) -> Iterator[str]:
    """A line for each fault, and one for all."""
    columns = [one.name for one in fields(FaultCounts)]
    yield f"{'last fault':18}" + "".join(f"{name.replace('_', ' '):>16}" for name in columns)
    faults = sorted(ledger.by_fault().items(), key=lambda item: item[0] == NO_FAULT)
    rows = {fault: [getattr(one, name) for name in columns] for fault, one in faults}
    rows[f"of {ledger.counts()['asked']} asked"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for name, row in rows.items():
        yield f"{name:18}" + "".join(f"{count:>16}" for count in row)


if __name__ == "__main__":
    sys.exit(main())
