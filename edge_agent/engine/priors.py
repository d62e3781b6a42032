"""Which labels of a task the model prefers where an input says nothing: measured once per model and task.

Scores divided by them are right more often (Zhao 2021, "Calibrate before use", arXiv 2102.09690).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from edge_agent.core import pipe
from edge_agent.core.files import read_if_exists, write_atomically
from edge_agent.engine.engine import Engine

log = logging.getLogger(__name__)

Scores = dict[str, Annotated[float, Field(ge=0, le=1)]]
_KEPT: TypeAdapter[dict[str, Scores]] = TypeAdapter(dict[str, Scores])


def measure_priors(
    load: pipe.Load, engine: Engine, tasks: Sequence[pipe.TaskPrefix], emit: Callable[[pipe.Event], object]
) -> pipe.Priors:
    """Measures what load.state_dir does not keep. Meanwhile emits Loading, and the events of requests that run."""
    if not engine.has_priors:
        return pipe.Priors(scores={})
    path = None if load.state_dir is None else Path(load.state_dir) / "priors.json"
    kept = {} if path is None else _read(path)
    keys = {
        task.definition: hashlib.sha256(f"{load.weights_sha256}\n{task.content_free!r}".encode()).hexdigest()
        for task in tasks
        if task.content_free
    }
    known = {key: kept[key] for key in keys.values() if key in kept}
    for task in tasks:
        if task.content_free and keys[task.definition] not in known:
            scores = _mean_scores(engine, task.task, task.content_free, emit)
            if scores is not None:
                known[keys[task.definition]] = scores
                if path is not None:  # A start that is ended in between goes on from here.
                    _write(path, known)
    return pipe.Priors(scores={name: known[key] for name, key in keys.items() if key in known})


def _read(path: Path) -> dict[str, Scores]:
    """Raises nothing, because what was damaged is measured again."""
    try:
        return _KEPT.validate_json(read_if_exists(path) or b"{}")
    except (OSError, ValueError) as error:
        log.info("%s cannot be used, priors are measured again: %s", path, error)
        return {}


def _write(path: Path, found: dict[str, Scores]) -> None:
    try:
        write_atomically(path, json.dumps(found).encode())
    except OSError as error:
        log.info("priors are not kept: %s", error)


def _mean_scores(
    engine: Engine, name: str, requests: Sequence[pipe.EngineRequest], emit: Callable[[pipe.Event], object]
) -> Scores | None:
    """The mean of the scores of these requests of a task, unless one of them has no answer."""
    scores: list[Scores] = []
    # The first one decodes the task's prefix, which the others share.
    for part in (requests[:1], requests[1:]):
        expected_count = len(scores) + len(part)
        for number, request in enumerate(part, start=1):
            # Requests of the agent have numbers from 0.
            if isinstance(refused := engine.add(replace(request, id=-number)), pipe.Failed):
                log.info("the scores of task %s stay as they are: %s", name, refused.message)
                for accepted in range(1, number):
                    engine.cancel(-accepted)
                return None
        while len(scores) < expected_count and engine.has_work:
            emit(pipe.Loading())
            for event in engine.step():
                if isinstance(event, pipe.Finished) and event.id < 0 and event.scores:
                    scores.append(event.scores)
                else:
                    emit(event)
        if len(scores) < expected_count:
            return None
    return {label: sum(request_scores[label] for request_scores in scores) / len(scores) for label in scores[0]}
