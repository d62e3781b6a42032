"""quality.json and quality.html of a bundle whose tasks are all of the kind `unusual`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..agent import page_environment, percent, share_interval
from ..write.manifest import canonical_json

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedField:
    name: str
    low: float | None  # The 1st percentile of its numbers; None for a categorical field.
    high: float | None  # The 99th percentile.
    values: tuple[str, ...]  # Of a categorical field, those that several rows have, the most frequent first.
    missing: float  # The share of rows without it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    rows: int
    unusual: int  # Those of them that are taken for unusual.


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusualQuality:
    """What a task says of usual rows that were held out, and of rows that have another answer."""

    name: str
    rows: int  # The usual rows, from which it learns.
    held_out: str  # Which rows were held out, in words.
    false_alarms: str  # The task's key.
    asked: float  # The share of readings that this allows.
    judged: Noticed  # The usual rows that were held out.
    independent: float  # The effective sample size of `judged`.
    answers: Mapping[str, Noticed]  # The rows that are not usual, by their answer.
    fields: tuple[WatchedField, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share of false alarms, at 95 %."""
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
        tasks = [asdict(task) | {"interval": list(task.interval)} for task in self.tasks]
        return {"schema": SCHEMA, "kind": "unusual"} | asdict(self) | {"tasks": tasks}

    def encode(self) -> bytes:
        return canonical_json(self.as_json())


def render_unusual(training: UnusualTraining) -> str:
    template = page_environment(Path(__file__).parent).get_template("unusual.html.jinja")
    return template.render(training=training, percent=percent)
