"""What training through the rounding would gain: `python -m rigs.recover CHECKPOINT MODEL.gguf`.

MODEL.gguf is the checkpoint as Q4_0, rounded with error feedback (`edge-convert --type q4_0 --calibration`). Levels and
scales of single blocks are trained through that rounding (straight-through), against the unquantized block on the
inputs that quantized blocks before it give, as EfficientQAT does (arXiv 2407.11062). Exits with 1 if a block's error on
other texts falls by less than 15 %.
"""

from __future__ import annotations

import sys
import time

from convert.measure.runner import CHUNK_TOKENS, Runner
from convert.measure.texts import calibration_files, chunks, evaluation_files, read_texts
from convert.write.manifest import MODEL_FILE
from edge_agent.core.extras import missing_extra
from edge_agent.tools.output import aligned
from rigs.bench.figures import processor
from rigs.machine import checkpoint_path, model_path, parser_of

LEAST_GAIN = 0.15


def main() -> int:
    parser = parser_of("rigs.recover", __doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("model", type=model_path)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 12, 20], help="default: 4 12 20")
    parser.add_argument("--epochs", type=int, default=4, help="over the calibration texts (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=5e-3, help="of learning, in levels (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=1000, help="of calibration texts, at most")
    given = parser.parse_args()
    model = given.model / MODEL_FILE if given.model.is_dir() else given.model
    if missing := missing_extra("train"):
        sys.exit(missing)
    from rigs.recover.block import train_block  # noqa: PLC0415 - needs PyTorch

    with Runner(model) as runner:
        learnt = chunks(read_texts(calibration_files()), runner, seed=0, most=given.chunks)
        others = chunks(read_texts(evaluation_files()), runner, seed=0, most=16)
    table = [("block", "error with feedback", "trained", "less by", "minutes")]
    gains = []
    for number in given.blocks:
        began = time.monotonic()
        before, after = train_block(given.checkpoint, model, number, learnt, others, given.epochs, given.rate)
        gains.append(1 - after / before)
        minutes = f"{(time.monotonic() - began) / 60:.1f}"
        table.append((str(number), f"{before:.5f}", f"{after:.5f}", f"{gains[-1]:.1%}", minutes))
        print(*aligned([table[0], table[-1]]), sep="\n", flush=True)
    print(f"\n{processor()}, {len(learnt) * CHUNK_TOKENS:,} tokens × {given.epochs}", *aligned(table), sep="\n")
    return 0 if min(gains) >= LEAST_GAIN else 1


if __name__ == "__main__":
    raise SystemExit(main())
