"""The labelled tasks are the same each time, and a half that is measured shares nothing with the other."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from edge_agent.tools.tune import prompts
from rigs.accuracy import federated, tuning
from rigs.accuracy.archives import Archive
from rigs.accuracy.datasets import DATASETS, load
from rigs.accuracy.readers import sentence, weather

NEEDS_NO_ARCHIVE = [dataset.name for dataset in DATASETS if dataset.archive is None]


def packed(folder: Path, name: str, content: str) -> Path:
    folder.mkdir(parents=True)
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content.encode()))
    return path


@pytest.mark.parametrize("name", NEEDS_NO_ARCHIVE)
def test_a_task_has_two_halves_that_share_no_input(name: str, tmp_path: Path) -> None:
    task = load(name, tmp_path)
    inputs = [row.input for row in (*task.train, *task.test)]
    assert len(set(inputs)) == len(inputs) >= 480
    shares = [Counter(row.label for row in half) for half in (task.train, task.test)]
    assert shares[0].keys() == shares[1].keys() == set(task.labels)
    assert all(abs(shares[0][label] - shares[1][label]) <= 1 for label in task.labels)
    assert load(name, tmp_path) == task


def test_every_task_names_its_labels_to_the_model() -> None:
    for dataset in DATASETS:
        assert all(label in dataset.system for label in dataset.labels), dataset.name
        assert 2 <= len(dataset.labels) <= 20


def test_rows_come_from_an_archive(tmp_path: Path) -> None:
    table = "location,date,precipitation,temp_max,temp_min,wind,weather\nSeattle,2012-01-01,0.0,12.8,5.0,4.7,sun\n"
    path = packed(tmp_path / "rows", "package/data/weather.csv", table)
    assert list(weather(path)) == [('{"precipitation_mm": 0.0, "max_c": 12.8, "min_c": 5.0, "wind_m_s": 4.7}', "sun")]


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "@scope+texts-1.0", "package/a.txt", "text")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Archive("npm", "@scope/texts", "1.0", digest, "MIT").fetch(tmp_path) == path
    with pytest.raises(SystemExit, match=r"@scope/texts 1\.0 of SHA-256 0000"):
        Archive("npm", "@scope/texts", "1.0", "0" * 64, "MIT").fetch(tmp_path)


def test_a_sentence_follows_its_template() -> None:
    draw = random.Random(1)
    made = {sentence("(<on>;[the] {area:area} light)", {"on": "on|up"}, {"area": ["hall"]}, draw) for _ in range(99)}
    assert made == {
        f"{first} {second}"
        for lamp in ("hall light", "the hall light")
        for word in ("on", "up")
        for first, second in ((word, lamp), (lamp, word))
    }


def test_tuning_lists_what_it_tried_and_what_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prompts, "_NUMBERS", (2,))
    monkeypatch.setattr(prompts, "_SEEDS", 1)
    options = {"tasks": ["cold-rooms"], "rows": 30, "minutes": 1, "most_train": 40, "most_test": 30, "seed": 0}
    tuning.run(argparse.Namespace(model=Path("echo:"), folder=tmp_path, **options))
    printed = capsys.readouterr().out
    assert "2 examples, turns, choice 1" in printed
    assert re.search(r"^cold-rooms +0\.\d{3} ", printed, flags=re.MULTILINE)


def test_each_target_can_be_missed() -> None:
    good = {"as_is": 0.5, "prior": 0.6, "tuned": 0.8, "best": 0.84, "best_of_slow": 0.9, "minutes": 9.0, "slower": 4.0}
    assert list(tuning.Outcome(task="t", **good).misses()) == []
    bad = tuning.Outcome(task="t", **{**good, "tuned": 0.7, "minutes": 11.0, "slower": 6.0})
    assert list(bad.misses()) == [
        "t: right in 0.700, less than 95% of 0.840",
        "t: 11.0 minutes",
        "t: 6.0 % slower",
    ]


def scores_of(folder: Path) -> None:
    """A task of a model that knows a little, and prefers one of three labels."""
    chance = random.Random(0)

    def rows(number: int) -> list[tuple[dict[str, float], str]]:
        found = []
        for right in chance.choices("abc", k=number):
            raw = {one: chance.random() + (one == "a") + 0.5 * (one == right) for one in "abc"}
            found.append(({one: score / sum(raw.values()) for one, score in raw.items()}, right))
        return found

    document = {"labels": ["a", "b", "c"], "prior": None, "train": rows(200), "test": rows(200)}
    (folder / "task.json").write_text(json.dumps(document), "utf-8")


def test_five_boards_together_are_as_right_as_one_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores_of(tmp_path)
    # One task says less than the mean of several.
    monkeypatch.setattr(federated, "_MAY_LOSE", 0.05)
    assert federated.run(argparse.Namespace(scores=tmp_path)) == 0
    head, task, average, verdict = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["task", "start"]
    assert task.split()[1:] == average.split()[1:]
    start, alone, together, free = map(float, task.split()[1:5])
    assert start < alone <= together + 5
    assert abs(together - free) < 5
    assert "may lose 5" in verdict


def test_a_federated_map_that_is_behind_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores_of(tmp_path)
    monkeypatch.setattr(federated, "_federated", lambda _name, _boards, start: (start, {}))
    assert federated.run(argparse.Namespace(scores=tmp_path)) == 1
    with pytest.raises(SystemExit, match="no scores are there"):
        federated.run(argparse.Namespace(scores=tmp_path / "nowhere"))
