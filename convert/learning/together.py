"""How the numbers of a task's rows go together. An input whose numbers do so less is unlike training.

The kind `unusual` learns this from usual rows, a trained task from all of its rows. Fields count only while they are
ordinary numbers, because gaps, codes and odd fields are judged by themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..agent import FieldTable, RarityModel, UsualReadings
from .quality import AnsweredRow
from .training_rows import Row, by_task
from .usual import learn_usual

# For all tasks together, in a header that the agent reads up to 1 MiB, which is enough for about 200 numbers.
_MAX_BYTES = 300_000
_MAX_SCORES = 1000


def learn_numbers(rows: Sequence[Row], table: FieldTable, seed: int) -> UsualReadings | None:
    """Learns from all rows of a task.

    None for a task that writes its answers, has no numbers of several values, or has too many numbers.
    """
    task = rows[0].task
    readings = [table.ordinary_numbers(task.name, row.values) for row in rows]
    if not table.tasks[task.name].is_scored or not any(readings):
        return None
    labels = [row.answer_text for row in rows] if task.config.choices else None
    max_bytes = _MAX_BYTES // len(table.tasks)
    learnt = learn_usual(readings, seed=seed, labels=labels, max_bytes=max_bytes)
    numbers = tuple(
        field.model_copy(update={"missing": 1.0, "odd": 1.0, "codes": dict[str, float]()}) for field in learnt.numbers
    )
    usual = learnt.model_copy(update={"numbers": numbers, "values": (), "scores": (), "tail": None})
    return usual if numbers and len(usual.model_dump_json()) <= max_bytes else None


def with_scores(
    answers: Iterable[AnsweredRow], learnt: Sequence[Row], table: FieldTable, seed: int
) -> list[AnsweredRow]:
    """The answers with the scores of their numbers, compared with the rows that the model has learnt from."""
    usual = {name: learn_numbers(rows, table, seed) for name, rows in by_task(learnt).items()}
    rarity = {name: RarityModel(readings) for name, readings in usual.items() if readings is not None}
    return [
        replace(answered, unlike=rarity[task].score(table.ordinary_numbers(task, answered.row.values)))
        if (task := answered.row.task.name) in rarity
        else answered
        for answered in answers
    ]


def with_held_out(usual: UsualReadings, answers: Sequence[AnsweredRow]) -> UsualReadings:
    """The usual readings with the scores of the held-out rows."""
    scores = sorted(answered.unlike for answered in answers if answered.unlike is not None and not answered.is_odd)
    places = np.linspace(0, len(scores) - 1, min(len(scores), _MAX_SCORES)).astype(int)
    return usual.model_copy(update={"scores": tuple(round(scores[place], 4) for place in places), "tail": None})
