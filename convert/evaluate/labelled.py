"""Task accuracy: the share of a user's labelled examples that a model answers right, through the agent's own code."""

from collections import Counter
from pathlib import Path

from ..agent import Code, Failed, Finished
from ..measure.cache import read_cached, write_cached
from ..progress import OnProgress, part_of
from ..report.quality import TaskAccuracy
from .requests import Requests, row_error
from .worker import Adapted, open_worker


def measure_accuracy(
    model: Adapted, reference: Adapted, examples: Requests, *, work: Path, progress: OnProgress
) -> tuple[TaskAccuracy, ...]:
    """The share of right answers of both models. work: the cache of the reference's answers. Raises ConvertError."""
    cached = reference.cached(work, examples.sha256, ".json")
    of_reference = read_cached(cached)
    if of_reference is None:
        of_reference = _right_answers(reference, examples, part_of(progress, 0.0, 0.5))
        write_cached(cached, of_reference)
    of_model = _right_answers(model, examples, part_of(progress, 0.5, 1.0))
    counts = {name: Counter[tuple[bool, bool]]() for name in examples.tasks}
    for example, own, other in zip(examples.requests, of_model, of_reference, strict=True):
        counts[example.task.name][own, bool(other)] += 1
    return tuple(
        TaskAccuracy(
            name=name,
            kind=examples.tasks[name].config.kind,
            examples=count.total(),
            accuracy=(count[True, True] + count[True, False]) / count.total(),
            reference_accuracy=(count[True, True] + count[False, True]) / count.total(),
            gained=count[True, False],
            lost=count[False, True],
        )
        for name, count in counts.items()
    )


def _right_answers(model: Adapted, examples: Requests, progress: OnProgress) -> list[bool]:
    """Whether each answer is right; an answer that is not valid, or not sure enough, is not."""
    are_right = []
    with open_worker(model, [task.prefix() for task in examples.tasks.values()]) as worker:
        for number, example in enumerate(examples.requests):
            progress("answering the labelled examples", number / len(examples.requests))
            event = worker.ask(example.make_run(number))
            if isinstance(event, Failed) and event.code in (Code.TOO_LONG, Code.BAD_FIELD):
                raise row_error(example, event.message)
            output = example.task.output_of(event) if isinstance(event, Finished) else None
            are_right.append(example.task.config.is_right(output, example.fields["answer"]))
    return are_right
