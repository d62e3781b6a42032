"""`edge-convert train` for tasks of the kind `unusual`: what it runs and what it prints."""

import argparse
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..agent import (
    BUILT_IN_TASK,
    DEFAULT_TEMPLATE,
    MAX_LABELS,
    USUAL,
    ClassifyTask,
    Task,
    UnusualTask,
    compact_json,
    percent,
)
from ..errors import ConvertError, escaped
from ..printing import complain, print_json
from ..write.bundle import new_bundle, verify_bundle
from ..write.manifest import PAGE_FILE, signer
from .doubts import too_frequent
from .runs import in_groups
from .table import codes_and_gaps
from .training_rows import MIN_ROWS, Row, by_task, in_order_of_time, read_labelled, read_rows
from .usual import TAIL_ROWS
from .usual_report import UnusualQuality, UnusualTraining
from .usual_training import UnusualJob, is_usual, judge_unusual, write_unusual_bundle

# A task of the kind `classify` can be made where an answer has this many rows.
ENOUGH_ROWS = 20
_SHOWN_RAREST = 5
# --classify keeps so many usual rows with the same error code, or without the same field. Rows with codes of one field
# are added up to this share, because a field with many codes would be read as a text.
_KEPT_OF_EACH, _MAX_CODE_SHARE = 10, 0.05


def is_unusual_training(given: argparse.Namespace, tasks: Mapping[str, Task]) -> bool:
    """Whether the rows are for tasks of the kind `unusual`: some have no answer, or there is no other task."""
    others = tasks.keys() - _unusual(tasks).keys() - {BUILT_IN_TASK}
    return given.teacher is None and (given.unlabelled is not None or not others)


def train_unusual(given: argparse.Namespace, tasks: Mapping[str, Task]) -> None:
    """Raises ConvertError."""
    rows, notes, in_both = _read(given, tasks)
    rows, group_notes = in_groups(rows)
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
    for note in (*notes, *group_notes):
        complain(f"warning: {note}")
    if given.check:
        training, _ = judge_unusual(job)
    else:
        with new_bundle(given.out, replace=given.force) as folder:
            training = write_unusual_bundle(job, folder)
            verify_bundle(folder)
    for task in training.tasks:
        for warning in task.warnings:
            complain(f"warning: task {task.name}: {warning}")
    if given.json:
        facts = {"bundle": given.out and str(given.out), "signed": sign is not None, "faults_in_unlabelled": in_both}
        print_json(facts | training.as_json())
    else:
        _print_unusual(training, None if given.check else given.out, is_signed=sign is not None)


def classified_rows(given: argparse.Namespace, tasks: Mapping[str, Task]) -> tuple[list[Row], list[str]]:
    """The rows of a task of the kind `unusual` as those of a `classify` task; and warnings. Raises ConvertError."""
    rows, notes, _ = _read(given, tasks)
    # Of a reading that people named for both tasks, the row of this one counts.
    own = {row.identity for row in rows if _is_of_task(given.classify, row)}
    rows = [row for row in rows if _is_of_task(given.classify, row) or row.identity not in own]
    if len(of_task := by_task(rows)) > 1:
        raise ConvertError(f"--classify makes a task from the rows of one task (got {', '.join(of_task)})")
    config = rows[0].task.config
    assert isinstance(config, UnusualTask)
    # Several people may have typed the same name differently.
    names = [unicodedata.normalize("NFC", row.answer_text.strip()) for row in rows]
    answers = [USUAL if config.is_usual(name) else name for name in names]
    counts = Counter(answers)
    labels = tuple(sorted(answer for answer, count in counts.items() if count >= ENOUGH_ROWS))
    few = [f"{escaped(answer)} {count}" for answer, count in counts.items() if count < ENOUGH_ROWS]
    if len(labels) > MAX_LABELS:
        raise ConvertError(f"--classify makes at most {MAX_LABELS} labels (got {len(labels)} frequent answers)")
    if len(labels) < 2 or len(rows) < MIN_ROWS:
        rule = f"needs {MIN_ROWS} rows, and two answers with {ENOUGH_ROWS} rows each"
        shown = ", ".join(f"{escaped(answer)} {count}" for answer, count in counts.items())
        raise ConvertError(f"--classify {rule} (got {shown})")
    task = Task(given.classify, ClassifyTask(kind="classify", labels=labels, template=config.template))
    classified = [
        replace(row, request=replace(row.request, task=task, fields=row.request.fields | {"answer": answer}))
        for row, answer in zip(rows, answers, strict=True)
        if answer in labels
    ]
    rule = (
        f"the model never gives these answers, because each has fewer than {ENOUGH_ROWS} rows, which it does not learn"
    )
    if few:
        notes.append(f"{rule}: {', '.join(few)}")
    if USUAL not in labels:
        notes.append(f"no label is {USUAL}, so each ordinary reading gets another one; add usual rows by --unlabelled")
    fewer = _with_fewer_usual(given, classified)
    if len(fewer) < len(classified) and not given.json:
        others = len(classified) - counts[USUAL]
        print(
            f"keeps {len(fewer) - others:,} of {counts[USUAL]:,} usual rows, drawn at random, with some of each error "
            f"code and gap: beside all of them, the {others:,} other rows would hardly be learnt"
        )
    return fewer, notes


def _with_fewer_usual(given: argparse.Namespace, rows: Sequence[Row]) -> list[Row]:
    """The rows. If nearly all are usual, these are drawn at random, with some of each error code and gap."""
    found = too_frequent(Counter(row.answer_text for row in rows))
    if found is None or found[0] != USUAL:
        return list(rows)
    usual = [at for at, row in enumerate(rows) if row.answer_text == USUAL]
    draw = random.Random(given.seed)  # noqa: S311 - reproducible
    kept = set(draw.sample(usual, found[1]))
    # Without any of these, the model would refuse readings with such a code or gap as unlike its rows.
    for places in codes_and_gaps(rows):
        each = min(_KEPT_OF_EACH, int(_MAX_CODE_SHARE * found[1]) // max(len(places.keys() - {None}), 1))
        for some in places.values():
            of_usual = [at for at in some if rows[at].answer_text == USUAL]
            others = [at for at in of_usual if at not in kept]
            lacking = min(each, len(of_usual)) - (len(of_usual) - len(others))
            kept.update(draw.sample(others, max(lacking, 0)))
    # On a switch, a board asks the new model the audits that are newer than all that it has learnt from. Rows that are
    # left out would be among these, usual ones alone, so the newest one from a board stays.
    kept.update([at for at in usual if _is_of_task(given.classify, rows[at])][-1:])
    return [row for at, row in enumerate(rows) if row.answer_text != USUAL or at in kept]


def _is_of_task(name: str, row: Row) -> bool:
    return row.request.fields.get("task") == name


def print_task(task: Task) -> None:
    """A task of the kind `classify` as the board's configuration needs it."""
    labels = escaped(compact_json([*task.config.choices]), limit=5000)
    print(f'for the board\'s configuration:\n[tasks.{task.name}]\nkind = "classify"\nlabels = {labels}')
    if task.config.template != DEFAULT_TEMPLATE:
        print(f"template = {compact_json(task.config.template)}")


def _unusual(tasks: Mapping[str, Task]) -> dict[str, Task]:
    return {name: task for name, task in tasks.items() if isinstance(task.config, UnusualTask)}


def _read(given: argparse.Namespace, tasks: Mapping[str, Task]) -> tuple[list[Row], list[str], int]:
    """Rows of tasks of the kind `unusual`, notes, and how many rows were in both files.

    Rows without an answer are usual. Prints this number, too, unless it is for JSON. Raises ConvertError.
    """
    if not (unusual := _unusual(tasks)):
        rule = "--unlabelled without --teacher, and --classify, are for tasks of the kind unusual"
        raise ConvertError(f"{escaped(str(given.tasks))}: has no such task; {rule}")
    try:
        return _read_of(unusual, given)
    except ConvertError as error:
        refused = re.findall(r': task: should be one of .* \(got "(.*)"\)', str(error))
        others = [task for name, task in tasks.items() if name in refused]
        if not others:
            raise
        rule = f"tasks of the kind unusual ({', '.join(unusual)}) are trained in a run of their own"
        rows = ", ".join(f"{task.name} ({task.config.kind})" for task in others)
        raise ConvertError(f"{error}\n{rule}: keep the rows of {rows} in another file") from None


def _read_of(unusual: dict[str, Task], given: argparse.Namespace) -> tuple[list[Row], list[str], int]:
    unlabelled = [row for path in given.unlabelled or () for row in read_rows(path, unusual, is_labelled=False)]
    watched = {row.task.name for row in unlabelled} or unusual.keys()
    if given.classify is not None and len(watched) == 1:
        # A board that runs an earlier model of the new task has rows of it, too.
        unusual = unusual | {given.classify: unusual[next(iter(watched))]}
    labelled, _, notes = read_labelled(given.labelled or (), unusual)
    # A row with a time is the same reading. What people took for usual stays, as standstills may have the same values.
    faults = [row for row in labelled if not is_usual(row)]
    named = Counter(row.identity for row in faults if row.time is not None)
    inputs = {row.identity for row in unlabelled}
    in_both = sum(named[identity] for identity in inputs)
    if in_both and not given.json:
        both = f"{in_both:,} of {len(faults):,} named rows of faults"
        print(f"{both} are also in --unlabelled, and are taken out there")
    timeless = sum(row.identity in inputs and row.identity not in named for row in faults if row.time is None)
    if timeless:
        both = f"{timeless:,} named rows of faults without a time have the values of rows in --unlabelled"
        notes.append(f"{both}, which are learnt as usual: remove those in --unlabelled, or give the named rows times")
    usual = [
        replace(row, request=replace(row.request, fields=row.request.fields | {"answer": USUAL}))
        for row in unlabelled
        if row.identity not in named
    ]
    # Fewer rows would not say how frequent false alarms are.
    samples = Counter(row.task.name for row in usual)
    labelled = [replace(row, is_selection=samples[row.task.name] >= TAIL_ROWS) for row in labelled]
    return in_order_of_time(usual + labelled), notes, in_both


def _print_choices(task: UnusualQuality) -> None:
    print(f"  {'false_alarms':22}{'false alarms':>14}{'jumps noticed':>15}{'drifts noticed':>16}")
    for choice in task.choices:
        shares = [
            percent(noticed.unusual / noticed.rows) if noticed.rows else "-"
            for noticed in (choice.alarms, choice.jumps, choice.drifts)
        ]
        mark = "" if choice.false_alarms != task.false_alarms else "  asked for"
        print("  {:22}{:>14}{:>15}{:>16}{}".format(choice.false_alarms, *shares, mark))
    print("    simulated: in a jump, one number moves by its usual range; in a drift, two by a quarter of theirs. Real")
    print("    faults are noticed more or less often: --labelled rows of them tell")


def _print_unusual(training: UnusualTraining, folder: Path | None, *, is_signed: bool) -> None:
    """`folder` is None if no bundle was written."""
    if folder is not None:
        signed = ", signed" if is_signed else ""
        print(f"{escaped(str(folder))}: {escaped(training.name)} version {training.version}{signed}")
    for task in training.tasks:
        low, high = map(percent, task.interval)
        alarms = f"{percent(task.judged.unusual / task.judged.rows)} of {task.judged.rows:,} usual rows"
        asked = f"{task.false_alarms}, {percent(task.asked, '.3g')}"
        print(f"{task.name}: learnt from {task.rows:,} usual rows, judged on {task.held_out}")
        print(f"  false alarms: {alarms}, 95 % interval {low} to {high}; asked for {asked}")
        if task.interval[0] > task.asked:
            print("    more than asked for: the judged models lack what was held out, such as a season, but the")
            print("    bundle's own has learnt it, so it may raise far fewer; or faults are among the rows")
        if task.alarms_of_codes:
            print(f"  of these false alarms, {task.alarms_of_codes:,} of {task.judged.unusual:,} have error codes")
        if task.jumped.rows:
            _print_choices(task)
        for answer, noticed in task.answers.items():
            rows = f"{noticed.unusual:,} of {noticed.rows:,} rows"
            print(f"  {escaped(answer)}: {rows} are taken for unusual{noticed.of_groups}")
        for kind, is_number in (("numbers", True), ("values", False)):
            names = [
                escaped(field.name or "(the whole text)")
                for field in task.fields
                if (field.low is not None) is is_number
            ]
            if names:
                print(f"  reads as {kind}: {', '.join(names)}")
        if codes := [
            f"{escaped(field.name or 'the whole text')} {escaped(code)} in {count:,} rows"
            for field in task.fields
            for code, count in field.codes.items()
        ]:
            print(f"  codes, or a state such as off: {', '.join(codes)}")
        if named := [escaped(answer) for answer, noticed in task.answers.items() if noticed.rows >= ENOUGH_ROWS]:
            print(f"  enough rows to tell apart: {', '.join(named)}; --classify NAME makes a task that names them")
        print("  rarest rows, for models that have not seen them; a fault among these hides its like:")
        for row in task.rarest[:_SHOWN_RAREST]:
            place = ", ".join(escaped(text) for text in (row.where, row.time, row.machine, row.run) if text)
            print(f"    {place}: {row.reasons}")
    if folder is not None:
        print(f"more in {escaped(str(folder / PAGE_FILE))}")
