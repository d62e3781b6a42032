"""`edge-convert train` for tasks of the kind `unusual`: what it runs and what it prints."""

import argparse
from pathlib import Path

from ..agent import UnusualTask, percent
from ..errors import ConvertError, escaped
from ..evaluate.requests import read_tasks
from ..printing import complain, print_json
from ..write.bundle import new_bundle, verify_bundle
from ..write.manifest import PAGE_FILE, signer
from .runs import in_groups
from .training_rows import read_usual_rows
from .usual_report import UnusualTraining
from .usual_training import UnusualJob, write_unusual_bundle


def train_unusual(given: argparse.Namespace) -> None:
    """`edge-convert train --unlabelled` without a teacher. Raises ConvertError."""
    tasks = {name: task for name, task in read_tasks(given.tasks).items() if isinstance(task.config, UnusualTask)}
    if not tasks:
        rule = "--unlabelled without --teacher is for tasks of the kind unusual"
        raise ConvertError(f"{escaped(str(given.tasks))}: has no such task; {rule}")
    rows, notes = in_groups(read_usual_rows(given.unlabelled, given.labelled or (), tasks))
    sign = signer(given.sign)
    job = UnusualJob(
        rows=rows,
        seed=given.seed,
        name=given.name,
        version=given.model_version,
        expires=given.expires,
        licence=given.licence,
        sign=sign,
    )
    for note in notes:
        complain(f"warning: {note}")
    with new_bundle(given.out, replace=given.force) as folder:
        training = write_unusual_bundle(job, folder)
        verify_bundle(folder)
    if given.json:
        print_json({"bundle": str(given.out), "signed": sign is not None} | training.as_json())
    else:
        _print_unusual(training, given.out, is_signed=sign is not None)


def _print_unusual(training: UnusualTraining, folder: Path, *, is_signed: bool) -> None:
    signed = ", signed" if is_signed else ""
    print(f"{escaped(str(folder))}: {escaped(training.name)} version {training.version}{signed}")
    for task in training.tasks:
        low, high = map(percent, task.interval)
        alarms = f"{percent(task.judged.unusual / task.judged.rows)} of {task.judged.rows:,} usual rows"
        print(f"{task.name}: learnt from {task.rows:,} usual rows, judged on {task.held_out}")
        print(
            f"  false alarms: {alarms}, 95 % interval {low} to {high}; asked for {task.false_alarms}, {task.asked:.3%}"
        )
        for answer, noticed in task.answers.items():
            print(f"  {escaped(answer)}: {noticed.unusual:,} of {noticed.rows:,} rows are taken for unusual")
        for kind, is_number in (("numbers", True), ("values", False)):
            names = [
                escaped(field.name or "(the whole text)")
                for field in task.fields
                if (field.low is not None) is is_number
            ]
            if names:
                print(f"  reads as {kind}: {', '.join(names)}")
    print(f"more in {escaped(str(folder / PAGE_FILE))}")
