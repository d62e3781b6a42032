"""Canaries: requests that the finished model answers here, for a board to see whether it answers them alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_agent.core.config import GenerateTask
from edge_agent.core.protocol import Finish, Finished, Run, Sampling
from edge_agent.models.canaries import (
    FILE,
    MAX_BYTES,
    MAX_CANARIES,
    SCHEMA,
    Answer,
    Canaries,
    Canary,
    CanaryError,
    Prompt,
    Tolerances,
    canary_run,
    is_near,
)
from edge_agent.models.canary_file import read_questions
from edge_agent.requests.tasks import Task, output_of
from edge_agent.worker.client import Worker

from ..adapters import adapters_beside
from ..errors import ConvertError, printable
from ..progress import Progress
from ..write.manifest import MODEL_FILE
from .model import opened
from .requests import Request, Requests, read_requests, read_tasks

TOLERANCES = Tolerances(score=0.1, number=0.01)
# Of a text: behind its beginning a board may write another one that is as good.
_TEXT_TOKENS = 16
_LEAST_TEXT_BYTES = 8
# A sampled answer differs from the most probable one where a token is at least half as probable as the best, and there
# alone; with this temperature nearly as often as not.
_PROBES = [Sampling(temperature=2.0, min_p=0.5, seed=seed) for seed in (1, 2, 3)]
# Of our own, lest chance alone has a damaged model answer them.
_FEWEST = 6
_FOLDER = Path(__file__).parents[1] / "texts" / "canaries"


@dataclass(frozen=True, slots=True)
class Recorded:
    """canaries: None = there are none. left_out: why a request gave none, for the operator."""

    canaries: Canaries | None
    left_out: list[str]


def own_requests() -> Requests:
    """For any model that follows instructions."""
    return read_requests(_FOLDER / "requests.jsonl", read_tasks(_FOLDER / "tasks.toml"))


def read_canary_requests(path: Path, tasks: dict[str, Task]) -> Requests:
    """A user's. Raises ConvertError."""
    requests = read_requests(path, tasks)
    if (count := len(requests.requests)) > MAX_CANARIES:
        raise ConvertError(f"{printable(str(path))}: {count} requests, at most {MAX_CANARIES} are allowed")
    return requests


def add_canaries(folder: Path, requests: Requests | None, progress: Progress) -> list[str]:
    """Writes the canaries of the model in `folder` beside it, and gives warnings.

    requests: None = our own; then a model that cannot answer has no canaries. Raises ConvertError otherwise.
    """
    try:
        recorded = record(folder / MODEL_FILE, requests or own_requests(), progress)
        if recorded.canaries is None:
            reason = recorded.left_out[0] if recorded.left_out else "there are no requests"
            raise ConvertError(f"the model answers none of them: {reason}")
        data = recorded.canaries.encode()
        if len(data) > MAX_BYTES:
            raise ConvertError(f"{FILE}: {len(data)} bytes, at most {MAX_BYTES} are allowed")
    except (ConvertError, OSError) as error:
        if requests is not None:
            raise ConvertError(f"canaries cannot be recorded: {error}") from error
        return [f"the bundle has no canaries: {error}"]
    (folder / FILE).write_bytes(data)
    if requests is not None:
        return [f"canary left out: {reason}" for reason in recorded.left_out]
    # Of ours a few may well be close for a model: nobody asked for these.
    if recorded.left_out and (count := len(recorded.canaries.canaries)) < _FEWEST:
        return [f"the bundle has only {count} canaries: {recorded.left_out[0]}"]
    return []


def record(model: Path, requests: Requests, progress: Progress) -> Recorded:
    """What a model answers with the adapters beside it. Raises ConvertError if it cannot be run."""
    found: list[tuple[Task, Canary]] = []
    left_out: list[str] = []
    with opened(model, [task.prefix() for task in requests.tasks.values()], adapters_beside(model)) as worker:
        for number, request in enumerate(requests.requests):
            progress("recording answers", number / len(requests.requests))
            task = _shortened(request.task)
            canary = _canary(worker, task, request)
            if isinstance(canary, str):
                left_out.append(f"{request.where}: {printable(canary)}")
            else:
                found.append((task, canary))
    if not found:
        return Recorded(None, left_out)
    tasks = {task.name: task.config for task, _ in found}
    canaries = Canaries(
        schema=SCHEMA, tolerances=TOLERANCES, tasks=tasks, canaries=tuple(canary for _, canary in found)
    )
    return Recorded(canaries, left_out)


def differences(folder: Path, progress: Progress) -> list[str]:
    """How the model of a bundle answers otherwise than recorded. Raises ConvertError."""
    try:
        canaries = read_questions(folder / FILE)
    except CanaryError as error:
        raise ConvertError(printable(str(error), limit=1000)) from None
    except OSError as error:
        raise ConvertError(f"{FILE}: cannot be read: {error.strerror}") from None
    found = []
    model = folder / MODEL_FILE
    with opened(model, canaries.prefixes, adapters_beside(model)) as worker:
        for index in range(len(canaries.canaries)):
            progress("asking again", index / len(canaries.canaries))
            found.append(canaries.difference(index, worker.ask(canaries.run(index, index))))
    return [difference for difference in found if difference is not None]


def _shortened(task: Task) -> Task:
    if not isinstance(task.config, GenerateTask):
        return task
    most = min(task.config.max_tokens, _TEXT_TOKENS)
    return replace(task, config=task.config.model_copy(update={"max_tokens": most}))


def _canary(worker: Worker, task: Task, request: Request) -> Canary | str:
    """What is to be recorded of it, or why nothing is."""
    value = request.fields["input"]
    run = canary_run(task, value, 0)
    event = worker.ask(run)
    if not isinstance(event, Finished):
        return event.message
    answer = _answer(worker, run, event)
    if isinstance(answer, str):
        return answer
    crc32 = event.prompt_crc32
    prompt = None if crc32 is None else Prompt(tokens=event.prompt_tokens, crc32=crc32)
    return Canary(task=task.name, input=value, answer=answer, prompt=prompt)


def _answer(worker: Worker, run: Run, event: Finished) -> Answer | str:
    if event.scores is not None:
        return Answer(scores={label: round(score, 3) for label, score in event.scores.items()})
    probes = [worker.ask(replace(run, sampling=sampling)) for sampling in _PROBES]
    answers = [output_of(probe, 0.0) for probe in (event, *probes) if isinstance(probe, Finished)]
    if len(answers) <= len(_PROBES):
        return "the answer hangs on close choices"
    if event.finish is Finish.SCHEMA:
        values = _same_values(answers)
        return Answer(values=values) if values else "every field of the answer hangs on close choices"
    beginning = _same_beginning([str(answer) for answer in answers])
    if len(beginning.encode()) < _LEAST_TEXT_BYTES:
        return f"the answer hangs on close choices behind its first {len(beginning)} characters"
    return Answer(beginning=beginning)


def _same_values(answers: Sequence[Any]) -> dict[str, Any]:
    """The fields that all of them have alike."""
    return {
        name: value
        for name, value in answers[0].items()
        if all(is_near(other.get(name), value, TOLERANCES.number) for other in answers)
    }


def _same_beginning(texts: Sequence[str]) -> str:
    shortest = min(texts, key=len)
    ends = (at for at, character in enumerate(shortest) if any(text[at] != character for text in texts))
    return shortest[: next(ends, len(shortest))]
