"""How labelled rows are read and what is doubtful about them, which is printed before a training takes its minutes."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from ..agent import ROW_KEYS, ErrorCode, FieldTable, number_of, shown
from ..errors import escaped
from .outliers import code_text, has_decimal_comma, outliers_of
from .report import FEW_ROWS
from .table import build_table
from .training_rows import Row, by_task

_TIME = re.compile(r"\s*(\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([ T,].*)?|\d{1,2}:\d{2}(:.*)?)\s*")
# A text field with at least this share of numbers is probably meant as a number, or with this share of times as a time.
_MIN_NUMBER_SHARE = 0.5
_MAX_SHOWN_CODES = 6
_MAX_SHOWN_FIELDS = 4
_MAX_SAME_TIME_SHARE = 0.5
# A number that varies by chance falls before it has risen this often.
_MIN_RISES = 20
# With 11 to 31 times as many rows of one label as of all others, trainings did not learn some of the others. In a small
# table, or with very few other rows, all are drawn often enough, and fewer rows would only harm.
_MAX_IMBALANCE = 10
_MIN_FREQUENT, _MIN_OTHERS = 1000, 20
# This many rows of the frequent label per row of all others were enough.
_KEPT_PER_OTHER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """The rows of a task, and how its fields are read."""

    name: str
    rows: int
    groups: int | None  # None if its rows are taken for independent.
    grouped: str | None  # The groups in words; None if there are none.
    labels: dict[str, int]  # The number of rows of each label; empty if the task's answers are not labels.
    answers: tuple[float, float] | None  # The least and the greatest answer; None unless answers are numbers.
    numbers: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def json(self) -> dict[str, Any]:
        return asdict(self)


def read_as(rows: Sequence[Row]) -> tuple[list[TaskRows], list[str]]:
    """What the rows of each task are read as, and the doubts about them."""
    table, read, doubts = build_table(rows), list[TaskRows](), list[str]()
    texts = {field.name for field in table.fields if field.edges is None}
    for name, task_rows in by_task(rows).items():
        counts = Counter(row.answer_text for row in task_rows)
        config = task_rows[0].task.config
        fields, groups = table.tasks[name].fields, {row.group for row in task_rows}
        read.append(
            TaskRows(
                name=name,
                rows=len(task_rows),
                groups=None if groups == {None} else len(groups),
                grouped=None if groups == {None} else _grouped(task_rows),
                labels={label: counts[label] for label in config.choices},
                answers=_range(row.answer for row in task_rows) if config.is_number else None,
                numbers=tuple(field for field in fields if field not in texts),
                texts=tuple(field for field in fields if field in texts),
            )
        )
        doubts += (f"task {name}: {doubt}" for doubt in _doubts(task_rows, read[-1], table))
    return read, doubts


def _grouped(rows: Sequence[Row]) -> str:
    groups = dict.fromkeys(row.group or "" for row in rows)
    if all(row.group == row.machine for row in rows):
        return f"{len(groups):,} groups, which are the machines"
    return f"{len(groups):,} groups, such as {next(iter(groups))}"


def _range(answers: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(answers)
    return ordered[0], ordered[-1]


def _doubts(rows: Sequence[Row], read: TaskRows, table: FieldTable) -> Iterator[str]:
    by_name = {field.name: field for field in table.fields}
    for label, count in read.labels.items():
        if count < FEW_ROWS:
            yield f"{shown(label)} has {count} rows, too few to learn it or to judge it"
    yield from imbalance_doubts(read.labels)
    yield from comma_doubts(rows, read.numbers)
    yield from time_doubts(rows)
    yield from counter_doubts(rows, read.numbers)
    with_codes = defaultdict[str, list[str]](list)  # Fields by their codes, because off is 0 in many at once.
    for field in (*read.numbers, *read.texts):
        values = [row.values[field] for row in rows if field in row.values]
        name = f"the field {escaped(field)}" if field else "the whole text"
        if field.casefold() in ROW_KEYS:
            key = field.casefold()
            yield f"{name} is read by the model; call it {key} if it belongs to the row, not to the reading"
        if len(set(map(repr, values))) == 1:
            yield f"{name} is always {shown(values[0])}, so nothing is learnt from it"
        elif field in read.texts:
            yield from text_doubts(name, values)
        elif codes := _codes(outliers_of(by_name[field], values)):
            counts = [
                f"{count} row{' has' if count == 1 else 's have'} {escaped(code)}"
                for code, count in codes.most_common(_MAX_SHOWN_CODES)
            ]
            with_codes[", ".join(counts)].append(name)
    for found, names in with_codes.items():
        yield f"{', '.join(names)}: {found}: an error code, or a state such as off?"
    yield from _contradictions(rows, has_labels=bool(read.labels))


def _codes(outliers: Sequence[ErrorCode]) -> Counter[str]:
    """How often each code occurs. A fraction that only one row has is left out, because no sensor has such a code."""
    counts = Counter(outliers)
    return Counter(
        {code_text(code): n for code, n in counts.items() if n > 1 or isinstance(code, str) or code.is_integer()}
    )


def too_frequent(labels: Mapping[str, int]) -> tuple[str, int] | None:
    """A label that has nearly all rows, so that others are hardly ever drawn, and how many of its rows are enough."""
    label, count = max(labels.items(), key=lambda item: item[1], default=("", 0))
    others = sum(labels.values()) - count
    if count < _MIN_FREQUENT or others < _MIN_OTHERS or count <= _MAX_IMBALANCE * others:
        return None
    return label, _KEPT_PER_OTHER * others


def imbalance_doubts(labels: Mapping[str, int]) -> Iterator[str]:
    if (found := too_frequent(labels)) is not None:
        label, kept = found
        others = sum(labels.values()) - labels[label]
        yield (
            f"{shown(label)} has {labels[label]:,} rows, and all other labels together have {others:,}, so the model "
            f"may never recognize some of these: keep about {float(f'{kept:.2g}'):,.0f} rows of {shown(label)}, drawn "
            "at random from all of them"
        )


def comma_doubts(rows: Sequence[Row], numbers: Iterable[str]) -> Iterator[str]:
    """Decimal commas in a few rows of fields that are numbers in the others."""
    commas = [(row, name) for name in numbers for row in rows if has_decimal_comma(row.values.get(name))]
    if commas:
        row, name = commas[0]
        counts = (len({id(row) for row, _ in commas}), len({name for _, name in commas}))
        in_rows, in_fields = (
            f"{count} {what}{'' if count == 1 else 's'}" for count, what in zip(counts, ("row", "field"), strict=True)
        )
        example = f"{shown(row.values[name])} in {escaped(name)}, {escaped(row.request.where)}"
        yield f"{in_rows} with decimal commas in {in_fields}, such as {example}: these numbers are lost; write points"


def time_doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Rows of one machine at the same time, as in an export that has a row for each value."""
    times = Counter((row.machine, row.time) for row in rows if row.time is not None)
    if sum(count for count in times.values() if count > 1) > _MAX_SAME_TIME_SHARE * len(rows):
        yield (
            "most rows have the time of another row: if each is a single value, make one row of each time "
            "(docs/training.md: From a historian's export to rows); if they are of several machines, name these in "
            "`machine`"
        )


def counter_doubts(rows: Sequence[Row], numbers: Iterable[str]) -> Iterator[str]:
    """Fields that only rise from row to row, like the number of a message or the seconds of a clock."""
    # Only rows of one machine and one file, because others have counts of their own.
    sequences = defaultdict[tuple[str, str | None], list[Row]](list)
    for row in rows:
        sequences[row.file, row.machine].append(row)
    if rising := [escaped(name) for name in numbers if _only_rises(name, sequences.values())]:
        shown_names = ", ".join(rising[:_MAX_SHOWN_FIELDS]) + (", …" if len(rising) > _MAX_SHOWN_FIELDS else "")
        yield (
            f"{shown_names} only rises from row to row: if it is a counter or a clock, leave it out, because later "
            "readings have numbers that no row has; of a counter in signals, keep the slope"
        )


def _only_rises(name: str, sequences: Iterable[Sequence[Row]]) -> bool:
    rises = 0
    for rows in sequences:
        numbers = [number for row in rows if (number := number_of(row.values.get(name))) is not None]
        for earlier, later in pairwise(numbers):
            if later < earlier:
                return False
            rises += later > earlier
    return rises >= _MIN_RISES


def text_doubts(name: str, values: Sequence[Any]) -> Iterator[str]:
    """Why a text field may be meant as something else, such as a number."""
    words = [value for value in values if isinstance(value, str)]
    if sum(_TIME.fullmatch(word) is not None for word in words) > _MIN_NUMBER_SHARE * len(values):
        yield f"{name} looks like a time, such as {shown(words[0])}, but the model reads it; call it ts if it is one"
        return
    commas = list(filter(has_decimal_comma, values))
    numbers = sum(number_of(value) is not None for value in values)
    if commas and len(commas) + numbers > _MIN_NUMBER_SHARE * len(values):
        rule = f"{len(commas)} values such as {shown(commas[0])} have a decimal comma; write a point"
        yield f"{name} is read as a text: {rule}"
        return
    are_short = not any(" " in word.strip() for word in words)
    if are_short and len(set(words)) == len(values) >= FEW_ROWS:
        yield f"{name} differs in every row, such as {shown(words[0])}; leave it out if it is an identifier"
        return
    others = [value for value in values if number_of(value) is None]
    if 0 < len(others) < (1 - _MIN_NUMBER_SHARE) * len(values):
        rule = f"{len(others)} of {len(values)} values are not numbers, such as {shown(others[0])}"
        yield f"{name} is read as a text, because {rule}"


def _contradictions(rows: Sequence[Row], *, has_labels: bool) -> Iterator[str]:
    """Rows with the same input and different labels."""
    by_input = defaultdict[str, list[Row]](list)
    for row in rows:
        by_input[row.identity].append(row)
    conflicts = [same for same in by_input.values() if has_labels and len({row.answer_text for row in same}) > 1]
    if conflicts:
        first, *others = conflicts[0]
        other = next(row for row in others if row.answer_text != first.answer_text)
        places = escaped(f"{first.request.where} and {other.request.where}")
        count = sum(map(len, conflicts))
        yield f"{count} rows have the same input as a row with another label, such as {places}"
