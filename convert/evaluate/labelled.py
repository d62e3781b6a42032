"""Task accuracy: the share of a user's labelled examples that a model answers right, through the agent's own code."""

from collections import Counter
from pathlib import Path

from ..agent import (
    KINDS,
    Code,
    Failed,
    Finished,
    Task,
    shown,
)
from ..measure.cache import read_cached, write_cached
from ..progress import OnProgress, part_of
from ..report.quality import TaskAccuracy
from .requests import RequestLine, Requests, read_requests
from .worker import Adapted, open_worker

JUDGED = "allowed are tasks of the kinds " + " and ".join(name for name, kind in KINDS.items() if kind.is_judged)


def read_labelled(path: Path, tasks: dict[str, Task]) -> Requests:
    """Lines of `{"task": …, "input": …, "answer": …}`, the answer a label or an object.

    Raises ConvertError, also for an answer that the task can never give, and for a task like `generate`, whose answers
    are neither right nor wrong.
    """
    examples = read_requests(path, tasks)
    for example in examples.requests:
        check_answer(example)
    return examples


def check_answer(example: RequestLine) -> None:
    """Raises ConvertError for an answer that the task can never give."""
    if (fault := _answer_fault(example)) is not None:
        raise example.error(fault)


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


def _answer_fault(example: RequestLine) -> str | None:
    """Why the model can never give this answer."""
    if "answer" not in example.fields:
        return "answer: required, but missing"
    task, config = shown(example.task.name), example.task.config
    if not config.is_judged:
        return f"task: {task} is of the kind {config.kind}, whose answers are not judged; {JUDGED}"
    return config.row_fault(example.fields["answer"])


def _right_answers(model: Adapted, examples: Requests, progress: OnProgress) -> list[bool]:
    """Whether each answer is right; an answer that is not valid, or not sure enough, is not."""
    found = []
    with open_worker(model, [task.prefix() for task in examples.tasks.values()]) as worker:
        for number, example in enumerate(examples.requests):
            progress("answering the labelled examples", number / len(examples.requests))
            event = worker.ask(example.make_run(number))
            if isinstance(event, Failed) and event.code in (Code.TOO_LONG, Code.BAD_FIELD):
                raise example.error(event.message)
            output = example.task.output_of(event) if isinstance(event, Finished) else None
            found.append(example.task.config.is_right(output, example.fields["answer"]))
    return found
