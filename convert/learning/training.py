"""From labelled rows to a bundle. START HERE: `write_trained_bundle` calls the steps in order."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..agent import MODEL_FILE, EstimateTask, FieldTable, Finished, number_of, percent
from ..conversion import Job, decide_types, open_source, write_bundle
from ..errors import ConvertError, escaped
from ..evaluate.requests import Requests
from ..evaluate.worker import AdaptedModel, open_worker
from ..plan import make_plan
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from ..write.manifest import PAGE_FILE, QUALITY_FILE
from .model import TrainedModel, train_model
from .numbers import levels_of, number_quality, with_levels
from .quality import AnsweredRow, HeldOutCounts, Limits, held_out_counts, limits_of, task_quality, with_limits
from .recipe import MIN_STEPS, NUMBER_PASSES, Recipe
from .report import Baseline, TaskQuality, Training, render_training
from .study import Fold, Study
from .teacher import Teacher
from .training_rows import Row, by_task

# A baseline is trained only up to this many labels: for very many it takes minutes.
_MAX_LABELS = 50
# Trees take a dense matrix.
_MAX_WORDS = 200
CANARIES = 20
# Steps that are timed, to know how many there is time for.
_TIMED_STEPS = 20
# The rest of the time is for answers.
_TRAINING_SHARE = 0.9
_ANYWAY = "--any-accuracy writes it all the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    rows: Sequence[Row]  # Labelled rows; with a teacher there may be none.
    teacher: Teacher | None = None
    quantization: Quantization
    recipe: Recipe
    minutes: float | None = None  # The most for all trainings together; the recipe then has as many steps as fit.
    takes_any_accuracy: bool = False  # A model is written although the most frequent answer alone is right as often.
    name: str
    version: int
    expires: str | None
    licence: str | None
    sign: Callable[[bytes], bytes] | None  # Makes the signature of the manifest's bytes.


@dataclass(frozen=True, slots=True)
class Result:
    """A model of all rows, and how right its recipe is on rows that were held out."""

    model: TrainedModel
    recipe: Recipe
    held_out: str  # Which rows were held out, in words.
    tasks: tuple[TaskQuality, ...]
    warnings: list[str]


def write_trained_bundle(job: TrainingJob, folder: Path, progress: OnProgress) -> tuple[Training, list[str]]:
    """All files of the bundle, into an empty folder; and warnings. Raises ConvertError."""
    in_training, in_conversion = part_of(progress, 0.0, 0.98), part_of(progress, 0.98, 1.0)
    result = train_and_evaluate(job, in_training)
    useless = [task for task in result.tasks if task.is_useless]
    if useless and not job.takes_any_accuracy:
        raise ConvertError("; ".join([*map(_useless, useless), *result.warnings]))
    asked = [*job.rows, *(job.teacher.unlabelled if job.teacher is not None else ())]
    # Only scores are recorded, because a written answer may depend on a close choice.
    scored = [row.request for row in asked if row.task.config.canary_part == "scores"]
    canaries = scored[:: -(-len(scored) // CANARIES) or 1]
    with TemporaryDirectory() as name:
        checkpoint = Path(name)
        result.model.write(checkpoint)
        conversion = Job(
            checkpoint=checkpoint,
            quantization=job.quantization,
            name=job.name,
            version=job.version,
            expires=job.expires,
            licence=job.licence,
            has_canaries=bool(canaries),
            canaries=Requests("", canaries),
            sign=job.sign,
        )
        with open_source(conversion) as source:
            plan, _ = decide_types(conversion, source, in_conversion)
            training = Training(
                name=plan.name,
                version=job.version,
                licence=plan.licence,
                quantization=plan.quantization_name,
                parameters=result.model.parameters,
                file_bytes=plan.file_bytes,
                held_out=result.held_out,
                recipe=asdict(result.recipe),
                tasks=result.tasks,
                teacher=None if job.teacher is None else job.teacher.sha256,
            )
            more_files = {QUALITY_FILE: training.encode(), PAGE_FILE: render_training(training).encode()}
            written = write_bundle(
                conversion, source, plan, None, folder=folder, progress=in_conversion, more_files=more_files
            )
    return training, [*result.warnings, *map(_useless, useless), *written.warnings]


def _useless(task: TaskQuality) -> str:
    share, constant = (percent(count / task.judged) for count in (task.right, task.most_frequent))
    name = escaped(task.name)
    if (number := task.number) is not None:
        error, constant_error = map(number.with_unit, (number.mean_error, number.constant_error))
        always = f"always answering {number.with_unit(number.constant)}, {constant_error}"
        return f"task {name}: a mean error of {error} is no less than that of {always}; {_ANYWAY}"
    return f"task {name}: {share} right is no more than always giving the most frequent answer, {constant}; {_ANYWAY}"


def train_and_evaluate(job: TrainingJob, progress: OnProgress) -> Result:
    """Trains a model on all rows, and on each fold for how right its recipe is. Raises ConvertError."""
    study, warnings = Study.of(job.rows, job.teacher, job.recipe.seed), list[str]()
    recipe = whole = _for_numbers(job.recipe, study.rows)
    # On each fold, and on all rows.
    trainings = len(study.folds) + 1
    if job.minutes is not None:
        recipe = _with_steps_for(_TRAINING_SHARE * 60 * job.minutes / trainings, recipe, study.rows)
    if recipe.steps < whole.steps:
        warnings.append(
            f"--minutes {job.minutes:g} leaves each training {recipe.steps:,} of {whole.steps:,} steps on this "
            "machine: the model may be less often right than with all of them, and no second run gives the same"
        )
    parts = [part_of(progress, at / trainings, (at + 1) / trainings) for at in range(trainings)]
    answers = [
        _evaluate_fold(study.with_teacher_answers(fold), recipe, job.quantization, part)
        for fold, part in zip(study.folds, parts, strict=False)
    ]
    model = train_model(study.rows, recipe, parts[-1])
    qualities, limits, levels = list[TaskQuality](), dict[str, Limits](), dict[str, tuple[float, ...]]()
    held_out = dict[str, HeldOutCounts]()
    for name, of_task in by_task(study.rows).items():
        judged = [answered for of_fold in answers for answered in study.judged(name, of_fold)]
        limits[name] = limits_of(judged, model.vocabulary.known_strangeness(of_task))
        held_out[name] = held_out_counts(judged) if of_task[0].task.config.choices else ()
        if model.table.tasks[name].number is not None:
            levels[name] = levels_of(judged)
            judged = with_levels(judged)
        judged = with_limits(judged, limits[name])
        quality = task_quality(
            of_task,
            model.table,
            judged,
            baseline_of(study.folds, name, model.table),
            teacher=study.teacher_quality(name, answers[0]),
            number=number_quality(of_task, judged) if name in levels else None,
        )
        qualities.append(quality)
    model = model.with_limits(limits).with_levels(levels).with_held_out(held_out)
    return Result(model, recipe, study.held_out, tuple(qualities), warnings)


def _for_numbers(recipe: Recipe, rows: Sequence[Row]) -> Recipe:
    """With fewer steps if the answers of all tasks are numbers and rows are few."""
    if not all(isinstance(row.task.config, EstimateTask) for row in rows):
        return recipe
    return replace(recipe, steps=min(recipe.steps, max(NUMBER_PASSES * len(rows) // recipe.batch, MIN_STEPS)))


def _with_steps_for(seconds: float, recipe: Recipe, rows: Sequence[Row]) -> Recipe:
    """The recipe with as many steps as this time allows, at most its own."""
    times = list[float]()
    timed = replace(recipe, steps=_TIMED_STEPS)
    train_model(rows, timed, lambda _what, _share: times.append(monotonic()))
    step_s = median(after - before for before, after in pairwise(times))
    return replace(recipe, steps=min(recipe.steps, max(int(seconds / step_s), MIN_STEPS)))


def _evaluate_fold(fold: Fold, recipe: Recipe, quantization: Quantization, progress: OnProgress) -> list[AnsweredRow]:
    """Trains on a fold and answers the rows that it holds out. Raises ConvertError."""
    model = train_model(fold.train, recipe, part_of(progress, 0.0, 0.9))
    return answers_of(model, fold.held_out, quantization, part_of(progress, 0.9, 1.0))


def answers_of(
    model: TrainedModel, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[AnsweredRow]:
    """With the weights rounded as in the bundle. A row that is too long has no answer. Raises ConvertError.

    Rows unlike training, and those with an odd field, have an output, too, which `with_limits` then removes.
    """
    answers = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        model.write(folder)
        with Checkpoint(folder) as checkpoint:
            make_plan(read_model(checkpoint), quantization).write(folder / MODEL_FILE)
        with open_worker(AdaptedModel(folder / MODEL_FILE), []) as worker:
            for number, row in enumerate(rows):
                progress("answering rows that are held out", number / len(rows))
                event = worker.ask(row.request.build_engine_request(number))
                if not isinstance(event, Finished):
                    answers.append(AnsweredRow(row, None, None))
                    continue
                output = row.task.output_of(replace(event, unlike=None, odd_fields=()))
                strangeness = model.vocabulary.strangeness(row)
                is_odd = bool(event.odd_fields)
                answers.append(AnsweredRow(row, output, event.scores, event.unlike, strangeness, is_odd))
    return answers


def baseline_of(folds: Sequence[Fold], task: str, table: FieldTable) -> Baseline | None:
    """How many held-out rows a standard method answers right: gradient boosting if there are numbers, also on words.

    Without numbers logistic regression, on words alone.

    None without labels or labelled rows, or with too many labels.
    """
    sides = [(by_task(fold.train)[task], by_task(fold.held_out)[task]) for fold in folds]
    first, is_number = sides[0][0][0], table.tasks[task].number is not None
    if not (first.task.config.choices or is_number) or first.chances is not None:
        return None
    # Neither method can be trained on one label alone, and both take minutes for very many.
    if not is_number and not all(2 <= len({row.answer for row in train}) <= _MAX_LABELS for train, _ in sides):
        return None
    fields = [field for field in table.fields if field.name in table.tasks[task].fields]
    numbers, texts = ([field.name for field in fields if (field.edges is None) is is_text] for is_text in (False, True))
    # Texts of blanks alone have no features.
    if not numbers and not any(row.text.strip() for train, _ in sides for row in train):
        return None
    if is_number:
        return _number_baseline(sides, numbers, texts) if numbers else None
    right = 0
    for train, held_out in sides:
        model, features = boosting(numbers, texts, train) if numbers else _regression()
        model.fit(features(train), [row.answer for row in train])
        right += sum(model.predict(features(held_out)) == [row.answer for row in held_out])
    return Baseline(name="gradient boosting" if numbers else "logistic regression", right=int(right))


def _number_baseline(
    sides: Sequence[tuple[Sequence[Row], Sequence[Row]]], numbers: Sequence[str], texts: Sequence[str]
) -> Baseline:
    """The better one of the two usual losses."""
    baselines = list[Baseline]()
    for loss in ("absolute_error", "squared_error"):
        errors, right = list[float](), 0
        for train, held_out in sides:
            features = _features(numbers, texts, train)
            model = HistGradientBoostingRegressor(loss=loss, early_stopping=False, random_state=0)
            model.fit(features(train), [row.answer for row in train])
            outputs = model.predict(features(held_out)).tolist()
            errors += (abs(output - row.answer) for output, row in zip(outputs, held_out, strict=True))
            right += sum(
                row.task.config.is_right(output, row.answer) for output, row in zip(outputs, held_out, strict=True)
            )
        baselines.append(Baseline(name="gradient boosting", right=right, mean_error=sum(errors) / len(errors)))
    return min(baselines, key=lambda baseline: baseline.mean_error or 0.0)


def boosting(numbers: Sequence[str], texts: Sequence[str], train: Sequence[Row]) -> tuple[Any, Any]:
    return HistGradientBoostingClassifier(early_stopping=False, random_state=0), _features(numbers, texts, train)


def _features(numbers: Sequence[str], texts: Sequence[str], train: Sequence[Row]) -> Callable[[Sequence[Row]], Any]:
    """train: the rows whose most frequent words and pairs of words are features."""

    def text_of(row: Row) -> str:
        return " ".join(str(row.values[name]) for name in texts if name in row.values)

    words = None
    if any(text_of(row).strip() for row in train):
        words = _words(max_features=_MAX_WORDS).fit(map(text_of, train))

    def features(rows: Sequence[Row]) -> Any:
        """[rows, numbers and words], NaN where a number is missing."""
        of_rows = np.array([[number_of(row.values.get(name)) for name in numbers] for row in rows], dtype=np.float64)
        return of_rows if words is None else np.hstack([of_rows, words.transform(map(text_of, rows)).toarray()])

    return features


def _regression() -> tuple[Any, Any]:
    return make_pipeline(_words(), LogisticRegression(C=10)), lambda rows: [row.text for row in rows]


def _words(**more: Any) -> Any:
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+", **more)  # noqa: S106 - no password
