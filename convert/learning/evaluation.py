"""The answers of a trained model: through the agent's own worker, as a board gives them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..agent import MODEL_FILE, Finished
from ..evaluate.worker import Adapted, open_worker
from ..plan import make_plan
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from .folds import Fold
from .model import TrainedModel, train_model
from .quality import Answered
from .recipe import Recipe
from .rows import Row


def evaluate_fold(fold: Fold, recipe: Recipe, quantization: Quantization, progress: OnProgress) -> list[Answered]:
    """Trains on a fold and answers the rows that it holds out. Raises ConvertError."""
    model = train_model(fold.train, recipe, part_of(progress, 0.0, 0.9))
    return answers_of(model, fold.held_out, quantization, part_of(progress, 0.9, 1.0))


def answers_of(
    model: TrainedModel, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[Answered]:
    """With the weights rounded as in the bundle. A row that is too long has no answer. Raises ConvertError.

    Rows that are unlike training have an output all the same: `with_limits` takes it from them.
    """
    found = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        model.write(folder)
        with Checkpoint(folder) as checkpoint:
            make_plan(read_model(checkpoint), quantization).write(folder / MODEL_FILE)
        with open_worker(Adapted(folder / MODEL_FILE), []) as worker:
            for number, row in enumerate(rows):
                progress("answering rows that are held out", number / len(rows))
                event = worker.ask(row.request.make_run(number))
                if not isinstance(event, Finished):
                    found.append(Answered(row, None, None))
                    continue
                output = row.task.output_of(replace(event, unlike=None))
                one = Answered(row, output, event.scores, event.unlike, model.vocabulary.strangeness(row))
                found.append(one)
    return found
