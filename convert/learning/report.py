"""quality.json and quality.html of a bundle that `edge-convert train` made: how right it is on rows it has not seen."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..agent import percent, share_interval
from ..report.page import environment
from ..write.manifest import canonical_json

SCHEMA = 1
# Of the rows that the bundle's own model has learnt from: the share that a judged one has, see folds.py.
_JUDGED_SHARE = 0.8
# In a confusion, in place of a label: the best one is below `min_score`.
UNSURE = "(unsure)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A usual method, and how many of the same rows it answers right."""

    name: str
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Shares of right answers to the first rows that are held out.

    full: after training on all other rows. half: on half of them. doubled: predicted, on twice as many.
    """

    half: float
    full: float
    doubled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose answer may be wrong: the model, which has not seen it, is sure of another one."""

    where: str
    answer: str
    model_answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadField:
    """low, high: the least and the greatest number of the rows; None = a text. missing: the share of rows without."""

    name: str
    low: float | None
    high: float | None
    missing: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherQuality:
    """lessons: rows without labels that it answered. is_corrected: by labelled rows, for the model that is written.

    right: of `judged` labelled rows that were held out. agreed: of `compared` rows without labels, those that the first
    model answers as the teacher does. No model has learnt from either.
    """

    lessons: int
    is_corrected: bool
    judged: int
    right: int
    compared: int
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuality:
    """judged: rows that were held out; right: of them. most_frequent: those with the most frequent answer.

    is_agreement: the task has no labelled rows, so that right means as the teacher answers. teacher: None = none.
    unlike: the share of them that is taken for unlike training. calibration_error: the expected one. None = the task
    has no labels. confusion: by right label, counts by the model's answer. suspects: the surest of suspects_total.
    """

    name: str
    kind: str
    rows: int
    judged: int
    right: int
    most_frequent: int
    baseline: Baseline | None
    unlike: float | None
    calibration_error: float | None
    curve: LearningCurve
    confusion: Mapping[str, Mapping[str, int]]
    suspects_total: int
    suspects: tuple[Suspect, ...]
    fields: tuple[ReadField, ...]
    is_agreement: bool = False
    teacher: TeacherQuality | None = None

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
        """Of the accuracy of the bundle's own model, at 95 %.

        Its upper end allows for the rows that judged models lack: at best, twice the rows halve the error.
        """
        low, _ = share_interval(self.right, self.judged)
        return low, share_interval(self.judged - _JUDGED_SHARE * (self.judged - self.right), self.judged)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The content of quality.json. held_out: which rows, in words. recipe: of the model.

    teacher: SHA-256 of its weights, or None.
    """

    name: str
    version: int
    licence: str | None
    quantization: str
    parameters: int
    file_bytes: int
    held_out: str
    recipe: Mapping[str, float]
    tasks: tuple[TaskQuality, ...]
    teacher: str | None = None

    def encode(self) -> bytes:
        """Canonical JSON."""
        tasks = [asdict(task) | {"interval": list(task.interval)} for task in self.tasks]
        return canonical_json({"schema": SCHEMA, "kind": "training"} | asdict(self) | {"tasks": tasks})


def render_training(training: Training) -> str:
    """The page; equal content gives equal pages."""
    recipe = ", ".join(f"{name} {value:g}" for name, value in training.recipe.items())
    template = environment(Path(__file__).parent).get_template("training.html.jinja")
    return template.render(training=training, recipe=recipe, percent=percent)
