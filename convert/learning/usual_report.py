"""quality.json and quality.html of a bundle whose tasks are all of the kind `unusual`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..agent import NamedField, page_environment, percent, share_interval, shown
from ..errors import escaped
from ..write.manifest import canonical_json
from .usual import TAIL_ROWS

SCHEMA = 1
# A share of false alarms is far above what was asked for if it is so many times as high, and of more than so many rows.
_MANY_TIMES, _FEW_ALARMS = 10, 2
# If fewer jumps of a number are noticed, a warning says so. On simulated machines without a fault among the rows, 60 %
# and more were, even with 150 rows and one false alarm in 10,000 readings. Half or more says nothing of faults.
_MIN_NOTICED = 0.5
# So many labelled rows of a fault, of which fewer than half are noticed, are a reason to warn.
_MIN_FAULT_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedField:
    name: str
    low: float | None  # The 1st percentile of its ordinary numbers; None for a categorical field.
    high: float | None  # The 99th percentile.
    values: tuple[str, ...]  # The values of a categorical field that several rows have, the most frequent first.
    missing: float  # The share of rows without it.
    codes: Mapping[str, int]  # For a number, how many rows have each value that is far from the ordinary ones.


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    rows: int
    unusual: int  # Those of them that are taken for unusual.


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticedFault(Noticed):
    groups: int | None  # How many groups its rows are of; None if some have none.

    @property
    def of_groups(self) -> str:
        """The number of groups in words; empty if it is unknown."""
        return "" if self.groups is None else f" ({self.groups:,} group{'' if self.groups == 1 else 's'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RareRow:
    """A usual row that is rare for a model which has not seen it, perhaps of a fault that nobody has noticed."""

    where: str  # File and line.
    time: str | None
    machine: str | None
    rows: int  # How many rare rows its run has. They are of one machine and follow each other, or nearly so.
    first: str
    last: str
    rarity: float
    because: tuple[NamedField, ...]

    @property
    def run(self) -> str:
        """The run in words; empty if the row is alone."""
        file = self.where.rpartition(":")[0] + ":"
        first, last = (where.removeprefix(file) for where in (self.first, self.last))
        return "" if self.rows == 1 else f"rarest of {self.rows:,} rows from {first} to {last}"

    @property
    def reasons(self) -> str:
        return ", ".join(_reason(field) for field in self.because)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a task would notice with this rate of false alarms."""

    false_alarms: str
    asked: float  # The share of readings that this allows.
    alarms: Noticed  # The usual rows that were held out.
    jumps: Noticed  # Rows with one number moved by its range.
    drifts: Noticed  # Rows with two numbers moved by a quarter of theirs; none if there are fewer numbers.


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusualQuality:
    """What a task says of usual rows that were held out, and of rows that have another answer."""

    name: str
    rows: int  # The usual rows, from which it learns.
    held_out: str  # Which rows were held out, in words.
    false_alarms: str  # The task's key.
    asked: float  # The share of readings that this allows.
    judged: Noticed  # The usual rows that were held out.
    alarms_in_states: int  # Those of them that are from a state of the machine such as off.
    alarms_of_codes: int  # Those of the others that have what may be an error code.
    unusual_codes: int  # Those of them that the written model, which has learnt from them, takes for unusual, too.
    independent: float  # The effective sample size of `judged`.
    answers: Mapping[str, NoticedFault]  # The rows that are not usual, by their answer.
    fields: tuple[WatchedField, ...]
    jumps: Mapping[str, Noticed]  # For each number, rows with this number moved by the range that it has on the page.
    choices: tuple[Choice, ...]  # The fewest false alarms first.
    rarest: tuple[RareRow, ...]  # The rarest first.
    doubts: tuple[str, ...]  # About the rows.

    @property
    def jumped(self) -> Noticed:
        jumps = self.jumps.values()
        return Noticed(rows=sum(jump.rows for jump in jumps), unusual=sum(jump.unusual for jump in jumps))

    @property
    def is_too_small(self) -> bool:
        """Whether even a reading that is rarer than all rows has too high a rarity for an alarm."""
        return self.rows < TAIL_ROWS and self.asked * (self.rows + 1) < 1

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about the rows, and about what was learnt from them."""
        warnings = list(self.doubts)
        look = "look at the rarest rows, and remove those of a fault"
        many = max(_MANY_TIMES * self.asked * self.judged.rows, _FEW_ALARMS)
        if (others := self.judged.unusual - self.alarms_in_states - self.alarms_of_codes) > many:
            share = percent(others / self.judged.rows)
            more = "or collect for longer"
            warnings.append(f"false alarms are far more frequent than asked for, {share} of the rows: {look}, {more}")
        if self.alarms_in_states > many:
            counts = f"{self.alarms_in_states:,} of {self.judged.unusual:,} false alarms"
            rule = "a model that has not seen it cannot know it, so collect it at several times"
            warnings.append(f"{counts} are of a state, such as off, that the machine had only once or twice: {rule}")
        if self.alarms_of_codes > many:
            counts = f"{self.alarms_of_codes:,} of {self.judged.unusual:,} false alarms are of rows with error codes"
            rule = "leave them in if the sensors may send these again"
            left = f"the model that learns from all rows takes {self.unusual_codes:,} of them for unusual"
            warnings.append(f"{counts}: {rule}; {left}")
        if self.is_too_small:
            rule = f"collect {TAIL_ROWS} or more, or accept more false alarms"
            asked = percent(self.asked, ".3g")
            few = f"{self.rows:,} usual rows cannot tell which readings are among the rarest {asked}"
            return (*warnings, f"{few}, so hardly any is taken for unusual: {rule}")
        if self.jumped.unusual < _MIN_NOTICED * self.jumped.rows:
            noticed = f"{self.jumped.unusual:,} of {self.jumped.rows:,} simulated faults are taken for unusual"
            warnings.append(f"only {noticed}, fewer than half: {look}, or accept more false alarms")
        missed = [
            f"{escaped(answer)} ({noticed.unusual:,} of {noticed.rows:,})"
            for answer, noticed in self.answers.items()
            if noticed.rows >= _MIN_FAULT_ROWS and 2 * noticed.unusual < noticed.rows
        ]
        if missed:
            kinds = "if the machines are of different kinds or sizes, train a task for each kind of machine"
            old = "if the plant has changed since these were named, leave out the names from before"
            after = "if readings just after a fault were answered as usual, leave these out"
            few = f"few rows of a fault are taken for unusual, {', '.join(missed)}"
            warnings.append(f"{few}: {kinds}; {old}; {after}; or {look}")
        return tuple(warnings)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share of false alarms."""
        return share_interval(self.independent * self.judged.unusual / self.judged.rows, self.independent)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusualTraining:
    """The content of quality.json."""

    name: str
    version: int
    licence: str | None
    seed: int
    tasks: tuple[UnusualQuality, ...]

    def as_json(self) -> dict[str, Any]:
        tasks = [asdict(task) | {"interval": list(task.interval), "warnings": task.warnings} for task in self.tasks]
        return {"schema": SCHEMA, "kind": "unusual"} | asdict(self) | {"tasks": tasks}

    def encode(self) -> bytes:
        return canonical_json(self.as_json())


def render_unusual(training: UnusualTraining) -> str:
    template = page_environment(Path(__file__).parent).get_template("unusual.html.jinja")
    return template.render(training=training, percent=percent)


def _reason(field: NamedField) -> str:
    usual = "" if field.usual is None else f" (usual {field.usual[0]:g} to {field.usual[1]:g})"
    value = "missing" if field.value is None else shown(field.value)
    return f"{escaped(field.field or 'the whole text')} {value}{usual}"
