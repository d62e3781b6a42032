"""Task accuracy: how many of a user's labelled examples a model answers right, asked as the agent asks on a board."""

import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.core.config import ClassifyTask, ExtractTask
from edge_agent.core.errors import field_name, shown
from edge_agent.core.protocol import Finished, Refused
from edge_agent.core.schemas import validator
from edge_agent.models.canaries import is_near
from edge_agent.requests.tasks import Task, output_of

from ..adapters import Adapted
from ..kept import read_json, write_json
from ..progress import Progress
from ..report.quality import Task as TaskQuality
from .model import opened
from .requests import Request, Requests, read_requests


def read_labelled(path: Path, tasks: dict[str, Task]) -> Requests:
    """Lines of `{"task": …, "input": …, "answer": …}`, the answer a label or an object.

    Raises ConvertError, also for an answer that the task can never give, or whose task is of the kind `generate`: of a
    text nobody can say that it is right.
    """
    examples = read_requests(path, tasks)
    for example in examples.requests:
        if (fault := _answer_fault(example)) is not None:
            raise example.wrong(fault)
    return examples


def judge_tasks(
    model: Adapted, reference: Adapted, reference_sha256: str, examples: Requests, *, work: Path, progress: Progress
) -> tuple[TaskQuality, ...]:
    """The share of right answers of both models. work: a folder where the reference's are kept. Raises ConvertError."""
    kept = work / f"{reference_sha256[:16]}-{reference.key}{examples.sha256[:16]}.json"
    if (of_reference := _verdicts(read_json(kept), len(examples.requests))) is None:
        of_reference = _verdict_of_each(reference, examples, lambda share: progress("asking the reference", share / 2))
        write_json(kept, of_reference)
    of_model = _verdict_of_each(model, examples, lambda share: progress("asking the model", 0.5 + share / 2))
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for example, own, other in zip(examples.requests, of_model, of_reference, strict=True):
        pairs.setdefault(example.task.name, []).append((own, other))
    return tuple(_task_quality(examples.tasks[name], found) for name, found in pairs.items())


def _task_quality(task: Task, pairs: list[tuple[bool, bool]]) -> TaskQuality:
    """pairs: of each example, whether the model and whether the reference is right."""
    count = Counter(pairs)
    both, gained, lost = count[True, True], count[True, False], count[False, True]
    return TaskQuality(
        name=task.name,
        kind=task.kind,
        examples=len(pairs),
        accuracy=(both + gained) / len(pairs),
        reference_accuracy=(both + lost) / len(pairs),
        gained=gained,
        lost=lost,
    )


def is_right(output: Any, answer: Any) -> bool:
    """A label that is the same; an object whose listed fields all are equal, whatever else it holds."""
    if isinstance(answer, dict) and isinstance(output, dict):
        return all(name in output and is_near(output[name], value, 0.0) for name, value in answer.items())
    return is_near(output, answer, 0.0)


def _answer_fault(example: Request) -> str | None:
    """Why the model can never give this answer."""
    if "answer" not in example.fields:
        return "answer: required, but missing"
    answer = example.fields["answer"]
    match example.task.config:
        case ClassifyTask(labels=labels):
            known = {unicodedata.normalize("NFC", label) for label in labels}
            if not isinstance(answer, str) or unicodedata.normalize("NFC", answer) not in known:
                return f"answer: should be one of {', '.join(labels)} (got {shown(answer)})"
        case ExtractTask(output_schema=schema):
            if not isinstance(answer, dict) or not answer:
                return f"answer: should be an object with the fields that count (got {shown(answer)})"
            # What is not listed does not count, so it is not missing either.
            error = next(validator({**schema, "required": []}).iter_errors(answer), None)
            if error is not None:
                return f"{field_name(('answer', *error.absolute_path))}: {error.message}"
            known = set(schema.get("properties", answer))
            if unknown := sorted(answer.keys() - known):
                return f"answer: has {shown(unknown)}; the schema's fields are {', '.join(sorted(known))}"
        case _:
            return (
                f"task: {shown(example.task.name)} is of the kind generate, whose answers are not judged; "
                "allowed are tasks of the kinds classify and extract"
            )
    return None


def _verdict_of_each(model: Adapted, examples: Requests, progress: Callable[[float], None]) -> list[bool]:
    """Whether its answer is right; one that is not valid, or not sure enough, is not."""
    verdicts = []
    with opened(model.model, [task.prefix() for task in examples.tasks.values()], model.adapters) as worker:
        for number, example in enumerate(examples.requests):
            progress(number / len(examples.requests))
            event = worker.ask(example.run(number))
            if isinstance(event, Refused):
                raise example.wrong(event.message)
            output = output_of(event, example.task.min_score) if isinstance(event, Finished) else None
            verdicts.append(is_right(output, example.fields["answer"]))
    return verdicts


def _verdicts(value: Any, count: int) -> list[bool] | None:
    """What was kept; None for what is none."""
    if isinstance(value, list) and len(value) == count and all(isinstance(one, bool) for one in value):
        return value
    return None
