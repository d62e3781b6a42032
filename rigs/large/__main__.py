"""Large models through `edge-convert --budget`: `python -m rigs.large CHECKPOINT --like 1.5b`.

Writes a checkpoint with the shapes of a published model, random weights and the tokenizer of CHECKPOINT, and converts
it. Prints how long each stage takes, when it was predicted to end, and the memory besides mapped files, which is
limited. --kills ends the conversion by SIGKILL in each stage and begins it again: the last line's hash is that of a run
without. --minutes stops a run that takes too long for this machine, and prints what it predicts.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from convert.arguments import parse_size
from convert.write.manifest import MODEL_FILE
from edge_agent.tools.output import aligned
from rigs.bench.figures import processor
from rigs.large.checkpoint import SHAPES, write_checkpoint
from rigs.large.watched import Watched, watch_conversion
from rigs.machine import checkpoint_path, parser_of

# What is done, and the share of its stage in % at which it is killed.
KILLS = (
    ("writing the reference", 30),
    ("calibrating", 2),
    ("rounding", 30),
    ("measuring", 50),
    ("writing", 50),
    ("comparing", 50),
)
PREDICTED_AT = (10, 25, 50, 75)


def main() -> int:
    parser = parser_of("rigs.large", __doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--like", choices=SHAPES, default="1.5b", help="default: %(default)s")
    parser.add_argument("--layers", type=int, help="fewer of them")
    parser.add_argument("--bits", type=float, default=5.0, help="of the budget, for each weight (default: %(default)s)")
    parser.add_argument("--memory", type=parse_size, default=8_000_000_000, metavar="SIZE", help="default: 8GB")
    parser.add_argument("--kills", action="store_true", help="SIGKILL in each stage")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of a run, at most")
    parser.add_argument("--work", type=Path, default=Path("build/large"), help="default: build/large")
    given = parser.parse_args()
    shape = SHAPES[given.like]
    shape = replace(shape, layers=given.layers or shape.layers)
    folder = given.work / f"{given.like}-{shape.layers}"
    checkpoint = folder / "checkpoint"
    if not checkpoint.is_dir():
        print(f"writing {checkpoint}", file=sys.stderr)
        write_checkpoint(folder / "checkpoint.new", shape, given.checkpoint)
        (folder / "checkpoint.new").rename(checkpoint)
    work, out = folder / ("killed" if given.kills else "work"), folder / "bundle"
    shutil.rmtree(work, ignore_errors=True)
    weights = sum(one * another for one, another in (two for two in shape.tensors().values() if len(two) == 2))
    words = [
        str(checkpoint),
        "--budget",
        str(round(weights * given.bits / 8)),
        "--work",
        str(work),
        "--out",
        str(out),
        "--force",
    ]
    print(f"{given.like} with {shape.layers} layers, {weights:,} weights, {processor()}", flush=True)
    for kill in (*(KILLS if given.kills else ()), None):
        found = watch_conversion(words, memory=given.memory, kill_at=kill, most_s=60 * given.minutes)
        title = "" if kill is None else f"killed at {kill[1]} % while {kill[0]}: "
        print(f"\n{title}{found.seconds / 60:.1f} minutes, {found.own_bytes / 1e9:.2f} GB, exit code {found.exit_code}")
        print(*found.said, sep="\n")
        print(*_table(found), sep="\n", flush=True)
    if found.exit_code == 0:
        print(f"\n{MODEL_FILE}: SHA-256 {hashlib.sha256((out / MODEL_FILE).read_bytes()).hexdigest()}")
    return found.exit_code or 0


def _table(found: Watched) -> list[str]:
    """The stages, in minutes: how long each took, and what was predicted for it at some shares."""
    rows = [("stage", "minutes", "done", *(f"predicted at {share} %" for share in PREDICTED_AT))]
    for stage in found.stages:
        ends = (next((end for at, end in stage.ends.items() if at >= share), None) for share in PREDICTED_AT)
        predicted = ("–" if end is None else f"{(end - stage.began) / 60:.1f}" for end in ends)
        rows.append((stage.name, f"{(stage.seen - stage.began) / 60:.1f}", f"{stage.share} %", *predicted))
    return aligned(rows)


if __name__ == "__main__":
    raise SystemExit(main())
