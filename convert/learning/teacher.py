"""The teacher, a larger model whose answers to rows without labels a student learns."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..agent import (
    ClassifyTask,
    Finished,
    ScoreMap,
    Task,
    WorkerClient,
    compact_json,
    is_collapsed,
    shared_map,
    weights_sha256,
)
from ..errors import ConvertError, escaped
from ..evaluate.worker import AdaptedModel, adapters_of, open_worker
from ..measure.cache import read_cached, write_cached
from ..progress import OnProgress, part_of
from .quality import AnsweredRow
from .training_rows import Row, by_task

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Teacher:
    """The answers of a larger model, which was asked once."""

    sha256: str  # The hash of its weights, in hex.
    unlabelled: Sequence[Row]  # The rows without labels that it answers.
    answers: Mapping[tuple[str, str], Any]
    """By task and text of an input, the scores of the labels as the model gives them, or an object."""
    maps: Mapping[str, ScoreMap]  # What corrects the scores, by task with labels.

    def corrected_by(self, labelled: Sequence[Row]) -> "Teacher":
        """The teacher with a map for each task with enough of these rows, if it lowers log loss, cross-validated."""
        maps = dict(self.maps)
        for name, rows in by_task(row for row in labelled if row.chances is None).items():
            if (start := maps.get(name)) is None:
                continue
            known = [(self.answers[key], row.answer) for row in rows if (key := _key(row)) in self.answers]
            # Rows of one label say nothing about the others.
            if len({label for _, label in known}) < 2:
                continue
            try:
                maps[name] = shared_map(known, start).map or start
            except ValueError:  # too few
                continue
        return replace(self, maps=maps)

    def answer(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with its answers, which are the best one and the chances of all."""
        answered = []
        for row in rows:
            output, scores = self._answer(row)
            lesson = replace(row, request=replace(row.request, fields=row.request.fields | {"answer": output}))
            answered.append(replace(lesson, chances={lesson.answer_text: 1.0} if scores is None else scores))
        return answered

    def judged_on(self, rows: Sequence[Row]) -> list[AnsweredRow]:
        """Its answers to the labelled rows that it was asked."""
        answered = []
        for row in rows:
            if _key(row) in self.answers:
                output, scores = self._answer(row)
                config = row.task.config
                is_unsure = (
                    isinstance(config, ClassifyTask) and scores is not None and scores[output] < config.min_score
                )
                answered.append(AnsweredRow(row, None if is_unsure else output, scores))
        return answered

    def _answer(self, row: Row) -> tuple[Any, dict[str, float] | None]:
        """The label and the corrected scores of all; or the object."""
        answer = self.answers[_key(row)]
        if row.task.name not in self.maps:
            return answer, None
        scores = self.maps[row.task.name].apply(answer)
        return max(scores, key=scores.__getitem__), scores


def ask_teacher(
    model: AdaptedModel, labelled: Sequence[Row], unlabelled: Sequence[Row], *, work: Path, progress: OnProgress
) -> tuple[Teacher, list[str]]:
    """The answers of the model to all rows, as a board gives them; and warnings. `work` caches the answers.

    It is not asked about its task's examples. Rows without an answer are left out. Raises ConvertError.
    """
    taught = by_task(unlabelled)
    tasks = {name: rows for name, rows in by_task([*labelled, *unlabelled]).items() if name in taught}
    answers, maps, warnings = dict[tuple[str, str], Any](), dict[str, ScoreMap](), list[str]()
    weights = weights_sha256(model.sha256, adapters_of(model))
    with open_worker(model, [], at_once=_AT_ONCE) as worker:
        priors = worker.set_tasks(tuple(rows[0].task.prefix() for rows in tasks.values()))
        for number, (name, rows) in enumerate(tasks.items()):
            task = rows[0].task
            cache = model.cached(work, task.definition, "-answers.json")
            part = part_of(progress, number / len(tasks), (number + 1) / len(tasks))
            answered, failed = _ask(worker, _without_examples(rows), cache, part)
            first_failure = f", the first: {failed[0]}" if failed else ""
            if not any(_key(row) in answered for row in taught[name]):
                raise ConvertError(f"the teacher answers no row of the task {name}{first_failure}")
            if failed:
                warnings.append(f"the teacher does not answer {len(failed)} of {len(rows)} rows{first_failure}")
            answers |= answered
            if isinstance(task.config, ClassifyTask):
                given = [scores for row in rows if isinstance(scores := answered.get(_key(row)), dict)]
                maps[name] = _starting_map(task, task.config, weights, priors.get(task.definition), given)
    teacher = Teacher(weights, [row for row in unlabelled if _key(row) in answers], answers, maps)
    _check_varied(teacher, labelled)
    return teacher, warnings


def _check_varied(teacher: Teacher, labelled: Sequence[Row]) -> None:
    """Raises ConvertError for a task with one answer alone, if no labelled rows have another."""
    for name, lessons in by_task(teacher.answer(teacher.unlabelled)).items():
        if name in teacher.maps and name not in by_task(labelled) and len({row.answer for row in lessons}) < 2:
            raise ConvertError(f"task {name}: the teacher answers all rows with {escaped(lessons[0].answer)}")


def _ask(
    worker: WorkerClient, rows: Sequence[Row], cache: Path, progress: OnProgress
) -> tuple[dict[tuple[str, str], Any], list[str]]:
    """The answers, and for each failure its place and reason. The cache holds no texts, and survives interruptions."""
    kept = read_cached(cache) or {}
    hashes = {_key(row): hashlib.sha256(row.text.encode()).hexdigest()[:32] for row in rows}
    missing = list({digest: row for row in rows if (digest := hashes[_key(row)]) not in kept}.values())
    failed = []
    try:
        answered = worker.ask_all((row.request.build_engine_request(0) for row in missing), at_once=_AT_ONCE)
        for number, event in enumerate(answered, start=1):
            row = missing[event.id - 1]
            if not isinstance(event, Finished):
                failed.append(f"{row.request.where}: {escaped(event.message)}")
            else:
                kept[hashes[_key(row)]] = event.scores or row.task.output_of(event)
            progress("asking the teacher", number / len(missing))
    finally:
        if missing:
            write_cached(cache, kept)
    return {key: kept[digest] for key, digest in hashes.items() if digest in kept}, failed


def _starting_map(
    task: Task,
    config: ClassifyTask,
    weights: str,
    prior: Mapping[str, float] | None,
    answers: Sequence[Mapping[str, float]],
) -> ScoreMap:
    """What a board that has given these answers corrects this model's scores with."""
    if task.score_map is not None and task.has_map_for(weights):
        return task.score_map
    prior_map = None if prior is None else ScoreMap.dividing_by(prior)
    if prior_map is None or not (config.always_corrects_prior or is_collapsed(answers, prior_map)):
        return ScoreMap.identity(config.labels)
    return prior_map


def _without_examples(rows: Sequence[Row]) -> list[Row]:
    """The rows whose inputs are not among the task's own examples, as those have their answers in the prompt."""
    shown = {compact_json(example.input) for example in rows[0].task.config.examples}
    return [row for row in rows if compact_json(row.request.fields["input"]) not in shown]


def _key(row: Row) -> tuple[str, str]:
    return row.task.name, row.text
