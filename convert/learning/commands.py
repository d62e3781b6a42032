"""`edge-convert train` and `extend`: their options, what they run and what they print."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..agent import SIGNATURE_FILE, Task, missing_extra, percent
from ..arguments import (
    FORCE,
    JSON,
    OUT,
    ROWS,
    TASKS,
    Command,
    identity,
    integer,
    option,
    parse_minutes,
    parse_task_name,
    release,
    required,
)
from ..errors import ConvertError, escaped
from ..evaluate.requests import read_tasks
from ..evaluate.worker import model_or_reference
from ..measure.cache import user_cache
from ..printing import complain, print_json
from ..progress import ProgressLine
from ..quantize.recipe import Quantization
from ..write.bundle import check_target, new_bundle
from ..write.manifest import signer
from .doubts import read_as
from .extension import ExtendedBundle, extend_bundle
from .recipe import MAX_STEPS, MIN_STEPS, Recipe
from .report import UselessError
from .runs import in_groups
from .summary import print_quality, print_rows, print_training
from .teacher import ask_teacher
from .training_rows import Row, read_training_rows, read_unlabelled
from .usual_command import classified_rows, is_unusual_training, print_task, train_unusual

_ROWS = (
    f"{ROWS}. Several files are read as one, the oldest first: a row that is in two of them counts once, and of two "
    "answers to a reading that has a time, the later one counts"
)
_SEED = "seed of everything random: without --minutes, the same rows and seed give the same bytes (default: 0)"
_STEPS = f"steps of each training (default: {MAX_STEPS})"
_MINUTES = (
    "limit for all trainings together, without judging: if it is too short, each has fewer steps, but at least "
    f"{MIN_STEPS} (default: none)"
)
_ANY_ACCURACY = "also write a model that is no better than always giving the most frequent answer, or the median"
_CHECK = (
    "only print how the rows are read and what is doubtful about them, and for the kind unusual also what its model is "
    "worth; write nothing"
)
_TEACHER = "a bundle, .gguf or checkpoint whose answers the model also learns; --labelled may then be left out"
_UNLABELLED = (
    "rows without answers, in one or more files: usual readings, for tasks of the kind unusual; with --teacher, inputs "
    "for it to answer"
)
_CLASSIFY = (
    "make a task of this name, of the kind classify, from the answers that people gave to unusual readings; --labelled "
    "may also have rows of this task"
)
_WORK = "folder that keeps the teacher's answers for the next run (default: the user's cache)"


def _training_fault(given: argparse.Namespace) -> str | None:
    if given.teacher is not None and given.unlabelled is None:
        return "--teacher requires --unlabelled: the teacher answers the rows without labels"
    if given.labelled is None and given.unlabelled is None:
        return "--labelled is required, or --unlabelled"
    if given.work is not None and given.teacher is None:
        return "--work goes with --teacher, whose answers it keeps"
    if given.out is None and not given.check:
        return "--out is required, or --check"
    if given.classify is not None and (given.labelled is None or given.teacher is not None):
        return "--classify requires --labelled, and goes without --teacher"
    return None


TRAINING = Command(
    name="train",
    usage="--tasks CONFIG --labelled FILE... --out BUNDLE [option ...]",
    about="Trains a small model of your own from labelled rows, and writes it as a bundle. Readings need a few hundred "
    "rows and a few minutes. The bundle's quality.html says how right it is on rows that it has not seen. With "
    "--teacher it also learns from a larger model's answers to rows without labels. Tasks of the kind unusual learn "
    "from rows without labels alone, in less than a minute.",
    options=[
        required(TASKS),
        option("--labelled", "FILE", _ROWS, nargs="+", action="extend"),
        OUT,
        option("--check", None, _CHECK),
        option(
            "--type",
            None,
            "type of the weights (default: q8_0)",
            str,
            choices=[quantization.value for quantization in Quantization if quantization is not Quantization.AUTO],
            default="q8_0",
        ),
        option("--steps", "N", _STEPS, integer(1, 1_000_000), default=MAX_STEPS),
        option("--minutes", "MIN", _MINUTES, parse_minutes),
        option("--any-accuracy", None, _ANY_ACCURACY),
        option("--seed", "N", _SEED, integer(0, (1 << 32) - 1), default=0),
        *identity("licence of the model (default: not stated)"),
        FORCE,
        JSON,
    ],
    groups={
        "without labels, or with a teacher": [
            option("--unlabelled", "FILE", _UNLABELLED, nargs="+", action="extend"),
            option("--classify", "NAME", _CLASSIFY, parse_task_name),
            option("--teacher", "MODEL", _TEACHER),
            option("--work", "DIR", _WORK),
        ]
    },
    fault=_training_fault,
)
EXTENSION = Command(
    name="extend",
    usage="BUNDLE [--feedback EXPORT...] [--students BUNDLE...] --out BUNDLE [option ...]",
    about="Adds score maps or students to a copy of a bundle. Score maps are fitted to the feedback of several boards. "
    "A student answers its tasks first, and the bundle's own model answers what the student is not sure of. "
    "`maps` and `students` are aliases of it.",
    options=[
        option("bundle", "BUNDLE", "the bundle whose model gave the answers, or is larger than its students"),
        option("--feedback", "EXPORT", "exports of boards and tasks, from `edge-agent accuracy TASK --out`", nargs="+"),
        option("--students", "BUNDLE", "bundles of models that `edge-convert train` made", nargs="+"),
        required(OUT),
        *release(version="one more than the highest of the bundles", expires="as the bundle", bundle="new bundle"),
        FORCE,
        JSON,
    ],
    fault=lambda given: None if given.feedback or given.students else "--feedback or --students is required",
)


def train(words: Sequence[str]) -> None:
    given = TRAINING.parse(words)
    if not given.check:
        check_target(given.out, replace=given.force)
    tasks = read_tasks(given.tasks)
    if given.classify is None and is_unusual_training(given, tasks):
        train_unusual(given, tasks)
        return
    if not given.check and (missing := missing_extra("train")):
        raise ConvertError(missing)
    rows, notes = ([], []) if given.labelled is None else _read_rows(given, tasks)
    if given.check:
        return
    if given.steps < MAX_STEPS / 2:
        complain(f"warning: --steps {given.steps:,} is far below {MAX_STEPS:,}: the model may be right less often")
    unlabelled = [] if given.teacher is None else read_unlabelled(given.unlabelled, tasks, rows)
    sign = signer(given.sign)
    # It imports PyTorch, which takes seconds, while mistakes and doubts have to show at once.
    from .training import TrainingJob, write_trained_bundle  # noqa: PLC0415

    job = TrainingJob(
        rows=rows,
        notes=notes if given.classify is not None else (),
        is_selection=given.classify is not None,
        quantization=Quantization(given.type),
        recipe=Recipe(steps=given.steps, seed=given.seed),
        minutes=given.minutes,
        allows_any_accuracy=given.any_accuracy,
        name=given.name,
        version=given.model_version,
        expires=given.expires,
        licence=given.licence,
        sign=sign,
    )
    unanswered = list[str]()
    try:
        with closing(ProgressLine(sys.stderr)) as line, new_bundle(given.out, replace=given.force) as folder:
            if given.teacher is not None:
                work = given.work or user_cache()
                model = model_or_reference(given.teacher, work, line.show)
                teacher, unanswered = ask_teacher(model, rows, unlabelled, work=work, progress=line.show)
                job = replace(job, teacher=teacher)
            training, warnings = write_trained_bundle(job, folder, line.show)
    except UselessError as useless:
        if not given.json:
            print_quality(useless.held_out, useless.tasks)
        raise
    for warning in (*unanswered, *warnings):
        complain(f"warning: {warning}")
    if given.json:
        print_json({"bundle": str(given.out), "signed": sign is not None} | json.loads(training.encode()))
    else:
        print_training(training, given.out, is_signed=sign is not None)
        if given.classify is not None:
            print("no held-out row counts for a promise, because the rows are what somebody noticed: audit the answers")
            print_task(rows[0].task)


def _read_rows(given: argparse.Namespace, tasks: dict[str, Task]) -> tuple[list[Row], list[str]]:
    """The rows and notes on them; prints how they are read and what is doubtful about them."""
    if given.classify is not None:
        rows, notes = classified_rows(given, tasks)
    else:
        rows, notes = read_training_rows(given.labelled, tasks)
    rows, group_notes = in_groups(rows)
    read, doubts = read_as(rows)
    doubts = [*notes, *group_notes, *doubts]
    if not given.json:
        print_rows(read)
    elif given.check:
        print_json({"tasks": [task.json for task in read], "doubts": doubts})
    for doubt in doubts:
        complain(f"warning: {doubt}")
    return rows, notes


def extend(words: Sequence[str]) -> None:
    given = EXTENSION.parse(words)
    written = extend_bundle(
        given.bundle,
        feedback=given.feedback or (),
        students=given.students or (),
        out=given.out,
        replace=given.force,
        version=given.model_version,
        expires=given.expires,
        sign=signer(given.sign),
    )
    if given.sign is None and (given.bundle / SIGNATURE_FILE).is_file():
        complain("warning: the bundle is signed and its copy is not; --sign signs it")
    if given.json:
        print_json(_extension_facts(given, written))
    else:
        _print_extension(written, given.out, signed=", signed" if given.sign is not None else "")


def _extension_facts(given: argparse.Namespace, written: ExtendedBundle) -> dict[str, Any]:
    facts = {"bundle": str(given.out), "version": written.version, "signed": given.sign is not None}
    if given.feedback:
        facts["tasks"] = [
            {
                **{name: getattr(fitted, name) for name in ("task", "definition", "boards", "before", "after")},
                "is_written": fitted.shared is not None,
                "own_biases": sorted(fitted.board_maps),
            }
            for fitted in written.fitted
        ]
    return facts | ({"students": written.students} if given.students else {})


def _print_extension(written: ExtendedBundle, folder: Path, *, signed: str) -> None:
    print(f"{escaped(str(folder))}: version {written.version}{signed}")
    for fitted in written.fitted:
        corrections = f"{sum(fitted.boards.values())} corrections of {len(fitted.boards)} boards"
        right = (
            f"{percent(fitted.before, '.4g')} right before, {percent(fitted.after, '.4g')} with a map (cross-validated)"
        )
        unwritten = "" if fitted.shared is not None else "; no map written"
        print(f"{escaped(fitted.task)} {fitted.definition[:16]}: {corrections}, {right}{unwritten}")
        if fitted.board_maps:
            print(f"  biases of their own: {', '.join(map(escaped, sorted(fitted.board_maps)))}")
    for name, tasks in written.students.items():
        print(f"{name}: {', '.join(map(escaped, tasks))}")
