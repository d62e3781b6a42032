"""Large models through `edge-convert --budget`: `python -m rigs.large CHECKPOINT --like 1.5b`.

Writes a checkpoint with the shapes of a published model, random weights and the tokenizer of CHECKPOINT, and converts
it. Prints how long each stage takes, when it was predicted to end, and the memory without pages of files. --memory
limits the writable memory of each process. --minutes stops a run that takes too long, and prints what it predicts.

--kills converts it once more. SIGKILL ends this conversion in each of six stages, and it begins anew. The rig exits
with 1 if a kill came too late, or if the model is not the same.
"""

import filecmp
import shutil
import signal
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

from convert.arguments import parse_size
from convert.write.manifest import MODEL_FILE
from edge_agent.tools.output import aligned
from rigs.bench.figures import processor
from rigs.large.checkpoint import SHAPES, write_checkpoint
from rigs.large.watched import Watched, watch_conversion
from rigs.machine import checkpoint_path, parser_of

# The n-th different line of progress that begins so.
KILLS = (
    ("writing the reference", 2),
    ("calibrating", 1),
    ("rounding", 5),
    ("measuring blk", 3),
    ("writing token", 1),
    ("comparing", 2),
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
        shutil.rmtree(folder / "checkpoint.new", ignore_errors=True)
        write_checkpoint(folder / "checkpoint.new", shape, given.checkpoint)
        (folder / "checkpoint.new").rename(checkpoint)
    weights = sum(prod(sizes) for sizes in shape.tensors().values() if len(sizes) == 2)
    budget = str(round(weights * given.bits / 8))
    print(f"{given.like} with {shape.layers} layers, {weights:,} weights, {processor()}", flush=True)

    def convert(name: str, kill: tuple[str, int] | None) -> Watched:
        words = [str(checkpoint), "--budget", budget, "--work", str(folder / f"{name}-work")]
        words += ["--out", str(folder / name), "--force"]
        found = watch_conversion(words, memory=given.memory, kill_at=kill, most_s=60 * given.minutes)
        title = "" if kill is None else f"to be killed at line {kill[1]} of {kill[0]!r}: "
        print(f"\n{title}{found.seconds / 60:.1f} minutes, {found.held_mib:.0f} MiB, exit code {found.exit_code}")
        print(*found.said, *_table(found), sep="\n", flush=True)
        return found

    for name in ("whole", "killed"):
        shutil.rmtree(folder / f"{name}-work", ignore_errors=True)
    code = convert("whole", None).exit_code
    if code or not given.kills:
        return code or 0
    are_killed = [convert("killed", kill).exit_code == -signal.SIGKILL for kill in KILLS]
    code = convert("killed", None).exit_code
    if code:
        return code
    is_same = filecmp.cmp(folder / "whole" / MODEL_FILE, folder / "killed" / MODEL_FILE, shallow=False)
    print(f"\nkilled {sum(are_killed)} of {len(KILLS)} times; the same model: {'yes' if is_same else 'no'}")
    return int(not all(are_killed) or not is_same)


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
