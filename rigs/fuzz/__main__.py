"""Damaged input by the thousand: each case must be refused in words or work. Runs the parts that are named, or all."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.machine import ROOT, require, run_in_turn

# Of which a part takes a model's path before its other arguments.
PARTS = {
    "gguf": True,
    "safetensors": False,
    "manifests": False,
    "schemas": True,
    "prompts": True,
    "configurations": False,
    "templates": False,
    "messages": False,
}
DEMO = ROOT / "build" / "fuzz" / "demo"


def commands(parts: list[str], model: Path, count: int) -> list[list[str]]:
    """The words after `python -m` for each part."""
    return [
        [f"rigs.fuzz.{part}", *([str(model)] if PARTS[part] else []), "--count", str(count)] for part in parts or PARTS
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--count", type=int, default=1000, help="cases of each part (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a .gguf (default: the demonstration's, made below build/fuzz)")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))} (choose from {', '.join(PARTS)})")
    if "messages" in (given.parts or PARTS):
        require({"mosquitto": "mosquitto"})
    return run_in_turn(commands(given.parts, given.model or _demo_model(), given.count))


def _demo_model() -> Path:
    if not (DEMO / "manifest.json").is_file():
        words = ["--type", "q4_0", "--name", "pump-demo", "--no-canaries", "--force"]
        if run_in_turn([["convert", str(checkpoint_folder()), "--out", str(DEMO), *words]]):
            raise SystemExit("the demonstration's checkpoint was not converted")
    return DEMO / "model.gguf"


if __name__ == "__main__":
    raise SystemExit(main())
