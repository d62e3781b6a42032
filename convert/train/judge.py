"""The answers of a model to rows that it has not seen: through the agent's own worker, as a board answers."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..agent import Finished
from ..evaluate.worker import Adapted, open_worker
from ..plan import make_plan
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from ..write.manifest import MODEL_FILE
from .folds import Fold
from .learn import Learned, Recipe, learn
from .quality import Answered
from .rows import Row


def judge(fold: Fold, recipe: Recipe, quantization: Quantization, progress: OnProgress) -> list[Answered]:
    """The answers to the rows that are held out. Raises ConvertError."""
    learned = learn(fold.known, recipe, part_of(progress, 0.0, 0.9))
    return answers_of(learned, fold.held_out, quantization, part_of(progress, 0.9, 1.0))


def answers_of(
    learned: Learned, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[Answered]:
    """Of a worker, with the rounded weights. Raises ConvertError."""
    found = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        learned.write(folder)
        with Checkpoint(folder) as checkpoint:
            make_plan(read_model(checkpoint), quantization).write(folder / MODEL_FILE)
        with open_worker(Adapted(folder / MODEL_FILE), []) as worker:
            for number, row in enumerate(rows):
                progress("answering rows that are held out", number / len(rows))
                event = worker.ask(row.request.make_run(number))
                if isinstance(event, Finished):
                    found.append(Answered(row, row.task.output_of(event), event.scores))
                else:
                    found.append(Answered(row, None, None))
    return found
