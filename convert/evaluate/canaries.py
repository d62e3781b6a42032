"""Canaries: requests that the finished model answers here, so that a board can check that it answers them alike."""

from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import Any

from ..agent import (
    CANARIES_FILE,
    EngineRequest,
    Finished,
    Sampling,
    Task,
    TaskRow,
    WorkerClient,
    is_near,
    prefixes_of,
    read_canaries,
)
from ..agent import canaries as canary_format
from ..errors import ConvertError, escaped
from ..progress import OnProgress
from .requests import Requests, read_chat_requests, read_requests, read_tasks
from .worker import AdaptedModel, open_worker

TOLERANCES = canary_format.Tolerances(score=0.1, number=0.01)
_MIN_TEXT_BYTES = 8
# After its beginning, a text may go on differently on a board and be just as good.
_TEXT_TOKENS = 16
# A sampled answer leaves the most probable one only where another token is at least half as probable as the best.
# At this temperature it does so there nearly half of the time.
_PROBES = [Sampling(temperature=2.0, top_p=1.0, min_p=0.5, seed=seed) for seed in (1, 2, 3)]
_FOLDER = Path(__file__).parents[1] / "texts" / "canaries"


def included_requests() -> Requests:
    """The included requests, for any model that follows instructions."""
    return read_requests(_FOLDER / "requests.jsonl", read_tasks(_FOLDER / "tasks.toml"))


def read_canary_requests(path: Path, tasks: dict[str, Task]) -> Requests:
    """A user's requests. Raises ConvertError."""
    requests = read_chat_requests(path, tasks)
    if (count := len(requests.requests)) > canary_format.MAX_CANARIES:
        rule = f"at most {canary_format.MAX_CANARIES} are allowed"
        raise ConvertError(f"{escaped(str(path))}: {count} requests, {rule}")
    return requests


def record_canaries(
    model: AdaptedModel, requests: Requests | None, folder: Path, progress: OnProgress
) -> tuple[int, list[str]]:
    """Writes the answers of the model into the folder of its bundle; returns their number and warnings.

    If `requests` is None, the included ones are asked. A model need not answer these, and then it has no canaries.
    Raises ConvertError if it does not answer a user's requests.
    """
    try:
        recorded, left_out = _ask(model, requests or included_requests(), progress)
        data = recorded.encode()
        if len(data) > canary_format.MAX_BYTES:
            raise ConvertError(f"{CANARIES_FILE}: {len(data)} bytes, at most {canary_format.MAX_BYTES} are allowed")
    except (ConvertError, OSError) as error:
        if requests is not None:
            raise ConvertError(f"canaries cannot be recorded: {error}") from error
        return 0, [f"the bundle has no canaries: {error}"]
    (folder / CANARIES_FILE).write_bytes(data)
    # For many models, answers to some included requests depend on close choices. A warning about each would not help.
    return len(recorded.canaries), [] if requests is None else [f"canary left out: {reason}" for reason in left_out]


def _ask(model: AdaptedModel, requests: Requests, progress: OnProgress) -> tuple[canary_format.CanaryFile, list[str]]:
    """The canaries with the model's answers, and why requests were left out. Raises ConvertError if none is left."""
    answered: list[tuple[Task, canary_format.Canary]] = []
    left_out: list[str] = []
    with open_worker(model, prefixes_of(requests.tasks.values())) as worker:
        for number, request in enumerate(requests.requests):
            progress("recording answers", number / len(requests.requests))
            task, config = request.task, request.task.config
            if config.canary_part == "beginning":
                shortened = config.model_copy(update={"max_tokens": min(config.max_tokens, _TEXT_TOKENS)})
                task = replace(task, config=shortened)
            canary = _canary(worker, task, request)
            if isinstance(canary, str):
                left_out.append(f"{request.where}: {escaped(canary)}")
            else:
                answered.append((task, canary))
    if not answered:
        raise ConvertError(f"the model answers none of the requests: {left_out[0]}")
    recorded = canary_format.CanaryFile(
        schema=canary_format.SCHEMA,
        tolerances=TOLERANCES,
        tasks={task.name: task.config for task, _ in answered},
        canaries=tuple(canary for _, canary in answered),
    )
    return recorded, left_out


def differences(folder: Path, model: AdaptedModel, progress: OnProgress) -> list[str]:
    """How the answers of a bundle's model differ from the recorded ones. Raises ConvertError."""
    try:
        canaries = read_canaries(folder / CANARIES_FILE)
    except canary_format.CanaryError as error:
        raise ConvertError(escaped(str(error), limit=1000)) from None
    except OSError as error:
        raise ConvertError(f"{CANARIES_FILE}: cannot be read: {error.strerror}") from None
    differing = []
    with open_worker(model, ()) as worker:
        for index, run in enumerate(canaries.requests):
            progress("asking again", index / len(canaries.requests))
            differing.append(canaries.answers.difference(index, worker.ask(run)))
    return [difference for difference in differing if difference is not None]


def _canary(worker: WorkerClient, task: Task, request: TaskRow) -> canary_format.Canary | str:
    """The request with its answer, or why there is none."""
    if task.config.has_own_model:
        return f"task {task.name} has a model of its own, whose canaries `edge-convert train` records"
    value = request.fields["input"]
    event = worker.ask(run := canary_format.build_canary_request(task, value, 0))
    if not isinstance(event, Finished):
        return event.message
    answer = _answer(worker, task, run, event)
    if isinstance(answer, str):
        return answer
    crc32 = event.prompt_crc32
    prompt = None if crc32 is None else canary_format.Prompt(tokens=event.prompt_tokens, crc32=crc32)
    return canary_format.Canary(task=task.name, input=value, answer=answer, prompt=prompt)


def _answer(
    worker: WorkerClient, task: Task, run: EngineRequest, event: Finished
) -> canary_format.RecordedAnswer | str:
    """The part of the answer that does not depend on close choices, or why there is none."""
    if event.scores is not None:
        return canary_format.RecordedAnswer(scores={label: round(score, 3) for label, score in event.scores.items()})
    probes = [worker.ask(replace(run, sampling=sampling)) for sampling in _PROBES]
    answers: list[Any] = [task.output_of(probe) for probe in (event, *probes) if isinstance(probe, Finished)]
    if len(answers) <= len(_PROBES):
        return "the answer depends on close choices"
    if task.config.canary_part == "values":
        values = {
            name: value
            for name, value in answers[0].items()
            if all(is_near(other.get(name), value, TOLERANCES.number) for other in answers)
        }
        if not values:
            return "every field of the answer depends on close choices"
        return canary_format.RecordedAnswer(values=values)
    beginning = commonprefix([str(answer) for answer in answers])  # noqa: RUF071 - the characters count
    if len(beginning.encode()) < _MIN_TEXT_BYTES:
        return f"the answer depends on close choices after its first {len(beginning)} characters"
    return canary_format.RecordedAnswer(beginning=beginning)
