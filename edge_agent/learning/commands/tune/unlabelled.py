"""What inputs without labels say: how often each label is best, with each correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from edge_agent.core.codes import Refusal
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import Failed
from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.commands.tune.judge import Correction, dividing_by_mean
from edge_agent.learning.commands.tune.search import TuneError
from edge_agent.requests.tasks import Task
from edge_agent.worker.client import WorkerClient


def best_labels(
    worker: WorkerClient, task: Task, inputs: Sequence[Any], until: float, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """By correction: the best label of each input that there is time for. Raises TuneError, WorkerError."""
    assert isinstance(task.config, ClassifyTask)
    labels = task.config.labels
    task = task.measuring_prior()
    prior = worker.set_tasks((task.prefix(),)).get(task.definition)
    raw = list[dict[str, float]]()
    for number, value in enumerate(inputs, start=1):
        if raw and monotonic() > until:
            break
        say(f"inputs: {number} of {len(inputs)}")
        try:
            event = worker.ask(task.make_run(1, Envelope(input=value)))
        except Refusal as refused:
            raise TuneError(f"input {number}: {refused.error.message}") from refused
        if isinstance(event, Failed):
            raise TuneError(f"input {number}: {event.message}")
        assert event.scores is not None
        raw.append(event.scores)
    maps = {Correction.AS_IS: ScoreMap.identity(labels)}
    if prior is not None:
        maps[Correction.PRIOR] = ScoreMap.dividing_by(prior)
    maps[Correction.MEAN] = dividing_by_mean(raw)
    return {str(name): [one.best(scores)[0] for scores in raw] for name, one in maps.items()}
