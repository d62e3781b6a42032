"""Damaged input by the thousand: each case must be refused with a message, or work. Runs the named parts, or all.

A case's number determines it. Exit code 1 if one ends a process, hangs or fails in another way.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from importlib import import_module

from rigs.fuzz.children import BAD, Outcome
from rigs.machine import ROOT, model_path, parser_of, require
from tests.helpers.bundles import convert_demo_model

PARTS = ("gguf", "checkpoints", "bundles", "signed", "schemas", "configurations", "messages")
DEMO = ROOT / "build" / "fuzz"


def main() -> int:
    parser = parser_of("rigs.fuzz", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--count", type=int, default=1000, help="cases of each part (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument(
        "--model", type=model_path, help="a .gguf (default: the demonstration's, made below build/fuzz)"
    )
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))} (choose from {', '.join(PARTS)})")
    parts = given.parts or PARTS
    if "messages" in parts:
        require({"mosquitto": "mosquitto"})
    model = given.model or DEMO / "q4_0" / "model.gguf"
    if not model.exists():
        convert_demo_model(DEMO, "q4_0")
    if len(parts) > 1:
        # Each part gets its own process, because one that forks must not have loaded what another part needs.
        command = [sys.executable, "-m", "rigs.fuzz", f"--count={given.count}", f"--first={given.first}"]
        command += [f"--model={model}"]
        return max([subprocess.run([*command, part], cwd=ROOT, check=False).returncode for part in parts])
    cases = import_module(f"rigs.fuzz.{parts[0]}").outcomes(range(given.first, given.first + given.count), model)
    return report(parts[0], cases)


def report(part: str, outcomes: Iterable[tuple[int, Outcome]]) -> int:
    """Prints each bad case and the counts; returns 1 if a case is bad."""
    counts = Counter[str]()
    for number, (outcome, why) in outcomes:
        counts[outcome] += 1
        if outcome in BAD:
            print(f"{number}: {outcome}: {why}", flush=True)
    print(f"{part}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()), flush=True)
    return 1 if any(counts[outcome] for outcome in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
