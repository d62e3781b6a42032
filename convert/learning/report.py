"""quality.json and quality.html of a bundle that `edge-convert train` made: how right it is on rows it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..agent import DEFAULT_TOLERANCE, page_environment, percent, share_interval
from ..errors import ConvertError, escaped
from ..report.numbers import megabytes
from ..write.manifest import canonical_json

SCHEMA = 1
# The share of the bundle's own training rows that a judged model learns from, as study.py holds the others out.
_JUDGED_SHARE = 0.8
# Fewer rows of a label say little about it, and less about how often it is right.
FEW_ROWS = 10
# Stands for no label in a confusion matrix, because the best one is below `min_score`, or the input is unlike training.
UNSURE = "(unsure)"
_OVERRIDE = "may help; --any-accuracy writes it anyway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    name: str
    right: int
    mean_error: float | None = None  # Where answers are numbers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose answer may be wrong, because the model, which has not seen it, is sure of another one."""

    where: str
    answer: str
    model_answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadField:
    name: str
    low: float | None  # The 1st percentile of the ordinary numbers; None for a text.
    high: float | None  # The 99th percentile.
    missing: float  # The share of rows without this field.
    outliers: Mapping[str, int]  # For values far from the ordinary ones, such as error codes, the number of rows.


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherQuality:
    """How a teacher and the model that it taught compare. No model has learnt from the rows that count here."""

    lessons: int  # Rows without labels that the teacher answered.
    is_corrected: bool  # Whether labelled rows correct the teacher for the written model.
    judged: int  # Labelled rows that were held out and that the teacher answered.
    right: int  # Those of the judged rows that the teacher answered right.
    compared: int  # Rows without labels that were held out.
    agreed: int  # Those of the compared rows that the first fold's model answers as the teacher does.


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberQuality:
    """How near answers that are numbers are to the true ones, in the unit of the task."""

    unit: str | None
    mean_error: float  # The mean absolute error.
    error_interval: tuple[float, float]  # The 95 % interval of the mean error.
    tolerance: float | None  # Within which an answer counts as right; if None, a fifth of the true number.
    constant: float  # The median of the answers of all rows.
    constant_error: float  # The mean absolute error of always answering that.
    confidence: float  # How often the task's intervals should hold the true number.
    holds: float  # How often they do.
    holds_interval: tuple[float, float]  # The 95 % interval of that share.
    width: float  # The median width of the intervals.

    def with_unit(self, number: float) -> str:
        return f"{number:.4g}{'' if self.unit is None else f' {self.unit}'}"

    @property
    def within(self) -> str:
        """The tolerance in words."""
        if self.tolerance is not None:
            return self.with_unit(self.tolerance)
        return percent(DEFAULT_TOLERANCE, ".4g") + " of the true number"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuality:
    """How right the recipe is in a task, on rows that were held out."""

    name: str
    kind: str
    rows: int
    judged: int  # The rows that were held out.
    right: int  # How many of them were answered right; numbers within their tolerance.
    independent: float  # The effective sample size of the judged rows.
    most_frequent: int  # How many of them have the most frequent answer of all.
    is_useless: bool  # Whether always giving one answer, the most frequent one or the median, is as good.
    baseline: Baseline | None
    unlike: float | None
    """The share of them that gets no answer, as unlike training or for an odd field. None if answers are written."""
    unlike_by_label: Mapping[str, float]  # The same share of the rows with each label.
    calibration_error: float | None  # The expected calibration error; None without labels.
    confusion: Mapping[str, Mapping[str, int]]  # By right label, the counts of the model's answers.
    groups_by_label: Mapping[str, int]  # How many groups the held-out rows of each label are of; empty without groups.
    suspects_total: int
    suspects: tuple[Suspect, ...]  # The surest of suspects_total.
    suspects_by_group: Mapping[str, int]  # How many of suspects_total each group has; empty if rows have no groups.
    fields: tuple[ReadField, ...]
    is_agreement: bool = (
        False  # Whether no row is labelled, so that "right" means that the teacher gives the same answer.
    )
    teacher: TeacherQuality | None = None
    number: NumberQuality | None = None  # None unless answers are numbers.

    @property
    def judged_by_label(self) -> dict[str, int]:
        """The number of held-out rows of each label."""
        return {label: sum(counts.values()) for label, counts in self.confusion.items()}

    @property
    def right_by_label(self) -> str:
        """How many held-out rows of each label are answered right, in words."""
        return ", ".join(
            f"{escaped(label)} {self.confusion[label].get(label, 0):,} of {count:,}{self._groups_of(label)}"
            for label, count in self.judged_by_label.items()
        )

    def _groups_of(self, label: str) -> str:
        groups = self.groups_by_label.get(label)
        return "" if groups is None else f" ({groups} group{'' if groups == 1 else 's'})"

    @property
    def why_useless(self) -> str:
        """If the model is useless, the comparison with always giving one answer, in words."""
        name, share, constant = escaped(self.name), percent(self.accuracy), percent(self.most_frequent / self.judged)
        if (number := self.number) is not None:
            error, constant_error = map(number.with_unit, (number.mean_error, number.constant_error))
            always = f"always answering {number.with_unit(number.constant)}"
            compared = f"a mean error of {error} is no less than the {constant_error} of {always}"
            return f"task {name}: {compared}; more --steps, or more rows, {_OVERRIDE}"
        always = f"always giving the most frequent answer ({constant})"
        rows = "rows of the rare labels" if self.confusion else "rows"
        return f"task {name}: {share} right is no better than {always}; more --steps, or more {rows}, {_OVERRIDE}"

    @property
    def hardly_judged(self) -> dict[str, int]:
        """The labels with too few held-out rows to say how often they are right, and how many they have."""
        return {label: count for label, count in self.judged_by_label.items() if count < FEW_ROWS}

    @property
    def never_recognized(self) -> str | None:
        """A warning that names the labels with enough held-out rows that were never right; None without such labels."""
        counts = self.judged_by_label
        never = [label for label, count in counts.items() if count >= FEW_ROWS and not self.confusion[label][label]]
        if self.is_agreement or not never:
            return None
        shown = ", ".join(f"{escaped(label)} (0 of {counts[label]:,} rows)" for label in never)
        frequent = max(counts, key=counts.__getitem__)
        fewer = "" if frequent in never else f"fewer rows of {escaped(frequent)}, "
        helps = f"what may help: {fewer}more --steps or --minutes, or more rows or groups of these labels"
        return f"task {escaped(self.name)}: the judged models never recognized {shown}; {helps}"

    @property
    def is_teacher_doubtful(self) -> bool:
        """Whether the teacher is right less often than a usual method that has learnt from the labelled rows alone."""
        teacher, baseline = self.teacher, self.baseline
        if teacher is None or baseline is None or not teacher.judged:
            return False
        return teacher.right / teacher.judged < baseline.right / self.judged

    @property
    def accuracy(self) -> float:
        return self.right / self.judged

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy of the bundle's own model.

        Its upper end allows for the rows that judged models lack: at best, the error is inversely proportional to the
        number of rows.
        """
        total, error = self.independent, 1 - self.accuracy
        low, _ = share_interval(total * (1 - error), total)
        return low, share_interval(total * (1 - _JUDGED_SHARE * error), total)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The content of quality.json."""

    name: str
    version: int
    licence: str | None
    quantization: str
    parameters: int
    file_bytes: int
    held_out: str  # Which rows were held out, in words.
    recipe: Mapping[str, float]  # The model's recipe.
    tasks: tuple[TaskQuality, ...]
    teacher: str | None = None  # The SHA-256 of the teacher's weights.

    def encode(self) -> bytes:
        tasks = [asdict(task) | {"interval": list(task.interval)} for task in self.tasks]
        return canonical_json({"schema": SCHEMA, "kind": "training"} | asdict(self) | {"tasks": tasks})


class UselessError(ConvertError):
    """The model is no better than always giving one answer, so it is not written."""

    def __init__(self, message: str, held_out: str, tasks: Sequence[TaskQuality]) -> None:
        super().__init__(message)
        self.held_out, self.tasks = held_out, tasks


def render_training(training: Training) -> str:
    recipe = ", ".join(f"{name} {value:g}" for name, value in training.recipe.items())
    template = page_environment(Path(__file__).parent).get_template("training.html.jinja")
    return template.render(training=training, recipe=recipe, percent=percent, megabytes=megabytes)
