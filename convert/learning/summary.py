"""What `edge-convert train` prints: how the rows are read, and how right the model is."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..agent import percent
from ..errors import escaped
from ..report.numbers import megabytes
from ..write.manifest import PAGE_FILE
from .doubts import TaskRows
from .report import NumberQuality, TaskQuality, Training

_MAX_GROUPS = 5


def print_rows(read: Sequence[TaskRows]) -> None:
    for task in read:
        groups = "" if task.grouped is None else f" in {escaped(task.grouped)}"
        answers = ", ".join(f"{escaped(label)} {count:,}" for label, count in task.labels.items())
        if task.answers is not None:
            answers = "answers from {:g} to {:g}".format(*task.answers)
        print(f"{task.name}: {task.rows:,} rows{groups}{': ' if answers else ''}{answers}")
        for kind, names in (("numbers", task.numbers), ("texts", task.texts)):
            if names:
                print(f"  reads as {kind}: {', '.join(escaped(name or '(the whole text)') for name in names)}")
    sys.stdout.flush()


def print_training(training: Training, folder: Path, *, is_signed: bool) -> None:
    size, signed = megabytes(training.file_bytes), ", signed" if is_signed else ""
    print(f"{escaped(str(folder))}: {escaped(training.name)} version {training.version}, {size} MB{signed}")
    print_quality(training.held_out, training.tasks)
    print(f"more in {escaped(str(folder / PAGE_FILE))}")


def print_quality(held_out: str, tasks: Sequence[TaskQuality]) -> None:
    print(f"judged on {held_out}")
    for task in tasks:
        if task.number is not None:
            _print_number(task, task.number)
            continue
        low, high = map(percent, task.interval)
        right = f"agrees with the teacher on {percent(task.accuracy)}" if task.is_agreement else ""
        right = right or f"{percent(task.accuracy)} right"
        print(f"{task.name}: {right}, 95 % interval {low} to {high}")
        _print_effective_rows(task)
        if task.is_agreement:
            print("  how often it or its teacher is right is unknown, because no row is labelled")
        elif (teacher := task.teacher) is not None:
            if teacher.judged:
                corrected = ", corrected by labelled rows" if teacher.is_corrected else ""
                print(f"  the teacher on the same rows: {percent(teacher.right / teacher.judged)}{corrected}")
            if task.is_teacher_doubtful:
                print("  the labelled rows may teach more without the teacher: train without it as well, and compare")
            if teacher.compared:
                agreement = percent(teacher.agreed / teacher.compared)
                print(f"  agreement with the teacher: {agreement} of {teacher.compared} rows without labels")
        if task.baseline is not None:
            print(f"  {task.baseline.name} on the same rows: {percent(task.baseline.right / task.judged)}")
        if task.kind == "classify":
            print(f"  always the most frequent answer: {percent(task.most_frequent / task.judged)}")
        if task.unlike is not None:
            worst = max(task.unlike_by_label.items(), key=lambda item: item[1])
            rows = f"{task.judged_by_label[worst[0]]:,} with {escaped(worst[0])}"
            by_label = f", {percent(worst[1])} of the {rows}" if worst[1] > task.unlike else ""
            print(f"  taken for unlike training: {percent(task.unlike)} of the held-out rows{by_label}")
        if task.confusion:
            print(f"  right by label: {task.right_by_label}")
        if task.hardly_judged:
            few = ", ".join(f"{escaped(label)} {count}" for label, count in task.hardly_judged.items())
            print(f"  hardly judged, because few of the held-out rows have the label: {few}")
        if task.suspects:
            _print_suspects(task)
    sys.stdout.flush()  # a refusal may follow on stderr


def _print_effective_rows(task: TaskQuality) -> None:
    if task.independent < task.judged:
        print(f"  effective sample size: {task.independent:.0f} of {task.judged:,} rows, which come in groups")


def _print_suspects(task: TaskQuality) -> None:
    first = f"{task.suspects_total}, the most certain {escaped(task.suspects[0].where)}"
    if not task.suspects_by_group:
        print(f"  rows whose answers may be wrong: {first}")
        return
    groups = [f"{count} in {escaped(group)}" for group, count in task.suspects_by_group.items()]
    more = f", {len(groups) - _MAX_GROUPS} more groups" if len(groups) > _MAX_GROUPS else ""
    print(f"  rows where the model is sure of another answer: {first}; {', '.join(groups[:_MAX_GROUPS])}{more}")
    print(
        "    it had not seen these groups: where it contradicts many rows of one, it is usually the model that is wrong"
    )


def _print_number(task: TaskQuality, number: NumberQuality) -> None:
    low, high = number.error_interval
    print(f"{task.name}: mean error {number.with_unit(number.mean_error)}, 95 % interval {low:.4g} to {high:.4g}")
    _print_effective_rows(task)
    print(f"  off by at most {number.within}: {percent(task.accuracy)}")
    holds_low, holds_high = map(percent, number.holds_interval)
    holds = f"hold the true number in {percent(number.holds)} ({holds_low} to {holds_high})"
    confidence, width = percent(number.confidence, ".4g"), number.with_unit(number.width)
    print(f"  intervals at {confidence}: {holds}, median width {width}")
    if task.baseline is not None and task.baseline.mean_error is not None:
        print(f"  {task.baseline.name} on the same rows: mean error {number.with_unit(task.baseline.mean_error)}")
    constant, error = map(number.with_unit, (number.constant, number.constant_error))
    print(f"  always answering {constant}, the median of the rows: mean error {error}")
    if task.unlike is not None:
        print(f"  taken for unlike training: {percent(task.unlike)} of the held-out rows")
