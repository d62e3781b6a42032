"""Which labels of a task the model prefers where an input says nothing: measured once per model and task.

Scores divided by them are right more often (Zhao 2021, "Calibrate before use", arXiv 2102.09690).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edge_agent.core import pipe, state_files
from edge_agent.engine.engine import Engine

log = logging.getLogger(__name__)

Scores = dict[str, float]


class PriorMeasurer:
    """The priors of the tasks, kept in load.state_dir over restarts; without it they are measured at each start."""

    def __init__(self, load: pipe.Load) -> None:
        self._weights = load.weights_sha256
        self._path = None if load.state_dir is None else Path(load.state_dir) / "priors.json"

    def measure(
        self, engine: Engine, tasks: Sequence[pipe.TaskPrefix], emit: Callable[[pipe.Event], object]
    ) -> pipe.Priors:
        """Asks what is not known yet. emit: takes the events of requests that run meanwhile, and signs of life."""
        kept, found, priors = self._read(), dict[str, Scores](), dict[str, Scores]()
        for task in tasks:
            if not task.content_free:
                continue
            key = hashlib.sha256(f"{self._weights}\n{task.content_free!r}".encode()).hexdigest()
            scores = kept.get(key) or _ask(engine, task, emit)
            if scores is not None:
                found[key] = priors[task.definition] = scores
            emit(engine.progress())
        if found != kept:
            self._write(found)
        return pipe.Priors(scores=priors)

    def _read(self) -> dict[str, Scores]:
        try:
            content = None if self._path is None else state_files.read(self._path)
            kept = json.loads(content or b"{}")
            return {key: {label: float(p) for label, p in scores.items()} for key, scores in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.info("%s cannot be used, priors are measured again: %s", self._path, error)
            return {}

    def _write(self, found: dict[str, Scores]) -> None:
        try:
            if self._path is not None:
                state_files.replace(self._path, json.dumps(found).encode())
        except OSError as error:
            log.info("priors are not kept: %s", error)


def _ask(engine: Engine, task: pipe.TaskPrefix, emit: Callable[[pipe.Event], object]) -> Scores | None:
    """The mean of the scores of its content-free requests; None = one of them has no answer."""
    scores: list[Scores] = []
    for number, run in enumerate(task.content_free, start=1):
        # Requests of the agent have numbers from 0.
        if isinstance(refused := engine.add(replace(run, id=-number)), pipe.Failed):
            log.info("the scores of task %s stay as they are: %s", task.task, refused.message)
            for accepted in range(1, number):
                engine.cancel(-accepted)
            return None
    while len(scores) < len(task.content_free) and engine.has_work:
        for event in engine.step():
            if isinstance(event, pipe.Finished) and event.id < 0 and event.scores:
                scores.append(event.scores)
            else:
                emit(event)
    if len(scores) < len(task.content_free):
        return None
    return {label: sum(one[label] for one in scores) / len(scores) for label in scores[0]}
