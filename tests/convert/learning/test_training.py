"""`edge-convert train` without PyTorch: rows, fields, held-out parts, the page. `make demo-train` trains."""

import importlib.util
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convert.agent import RarityModel, share_interval
from convert.errors import ConvertError
from convert.evaluate.requests import read_tasks
from convert.learning.doubts import imbalance_doubts, read_as
from convert.learning.outliers import outliers_of
from convert.learning.quality import AnsweredRow, held_out_counts, limits_of, task_quality, with_limits
from convert.learning.report import Baseline, TaskQuality, TeacherQuality, Training, UselessError, render_training
from convert.learning.runs import MIN_BLOCKS, in_groups
from convert.learning.study import folds_of
from convert.learning.summary import print_training
from convert.learning.table import build_table
from convert.learning.together import learn_numbers, with_held_out, with_scores
from convert.learning.training_rows import Row, read_training_rows
from convert.learning.usual import learn_usual
from edge_agent.core import extras
from edge_agent.gguf import field_table
from edge_agent.gguf.field_table import FINGERPRINT_BYTES, FieldTable, fingerprint
from tests.convert.conversions import Cli

LABELS = ("calm", "loud")
TASKS = """
[tasks.sound]
kind = "classify"
labels = ["calm", "loud"]
"""
REPORT = """
[tasks.report]
kind = "extract"
schema = { type = "object", properties = { stop = { type = "boolean" } } }
"""


def read(folder: Path, text: str, *, name: str = "rows.jsonl", tasks: str = TASKS) -> list[Row]:
    (folder / "config.toml").write_text(tasks, "utf-8")
    (folder / name).write_text(text, "utf-8")
    return read_training_rows([folder / name], read_tasks(folder / "config.toml"))[0]


def lines(number: int, **more: Any) -> str:
    """Rows in which the sound is loud where rms is 5 or more."""
    values = [{"input": {"rms": at % 10 + at / 1000}, "answer": LABELS[at % 10 >= 5]} for at in range(number)]
    return "".join(
        json.dumps(value | {key: made(at) for key, made in more.items()}) + "\n" for at, value in enumerate(values)
    )


def places(rows: Sequence[Row]) -> list[str]:
    return [row.request.where for row in rows]


def test_rows_come_from_json_lines_and_csv(tmp_path: Path) -> None:
    as_json = read(tmp_path, lines(60))
    cells = "".join(f"{at % 10 + at / 1000},{'loud' if at % 10 >= 5 else 'calm'}\n" for at in range(60))
    as_csv = read(tmp_path, f"rms,answer\n{cells}", name="rows.csv")
    assert [(row.text, row.answer) for row in as_json] == [(row.text, row.answer) for row in as_csv]
    assert as_json[7].text == '{"rms":7.007}'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (lines(49), r"should have at least 50 rows \(got 49\)"),
        ('{"input": {"a\\u0000": 1}, "answer": "calm"}\n', "input: names should be printable"),
        ('{"input": {"ts": 1}, "answer": "calm"}\n', "rows.jsonl:1: input: should have a field besides"),
        (
            lines(1, ts=lambda _: "02.11.2026 06:00"),
            r'ISO 8601, such as 2026-11-02T06:00:00Z \(got "02.11.2026 06:00"\)',
        ),
        (lines(1, ts=lambda _: 10**400), "rows.jsonl:1: ts: should be a number or a time"),
        (lines(50).replace("loud", "calm"), "should have at least two different answers"),
    ],
)
def test_a_fault_of_a_row_names_it(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConvertError, match=fault):
        read(tmp_path, text)


def test_with_times_the_newest_rows_are_held_out(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100, ts=lambda at: f"2026-01-{1 + at % 28:02}T{at % 24:02}:00Z"))
    [fold], words = folds_of(rows, 0)
    assert words == "the newest 20 rows"
    assert times(fold.train)[-1] <= times(fold.held_out)[0]


def test_few_rows_are_each_held_out_once_with_all_answers_in_each_part(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    folds, _ = folds_of(rows, 0)
    assert len(folds) == 5
    assert sorted(row.request.where for fold in folds for row in fold.held_out) == sorted(
        row.request.where for row in rows
    )
    for fold in folds:
        assert len(fold.train) == 80
        assert not {*places(fold.train)} & {*places(fold.held_out)}
        assert sum(row.answer == "loud" for row in fold.held_out) == 10


def test_rows_with_the_same_input_are_held_out_together(tmp_path: Path) -> None:
    as_texts = re.sub(r'"rms": ([0-9.]+)', r'"note": null, "rms": "\1"', lines(60))
    folds, _ = folds_of(read(tmp_path, lines(60) * 2 + as_texts), 0)
    for fold in folds:
        train, held_out = ({float(row.values["rms"]) for row in rows} for rows in (fold.train, fold.held_out))
        assert not train & held_out


def test_equal_times_are_none(tmp_path: Path) -> None:
    folds, _ = folds_of(read(tmp_path, lines(60, ts=lambda _: 5)), 0)
    assert len(folds) == 5


def test_whole_groups_are_held_out(tmp_path: Path) -> None:
    # The groups of the first label are first; the last row has none, so it is a block by itself.
    text = lines(100, group=lambda at: f"day {at % 10}") + lines(1).replace("0.0", "0.5")
    rows, notes = in_groups(read(tmp_path, text))
    assert notes == ["task sound: 1 of 101 rows have no group: 1 blocks of neighbours in the file stand in for groups"]
    folds, words = folds_of(rows, 0)
    assert words == "101 rows of 11 groups, each by a model that has never seen its group"
    assert sorted(row.request.where for fold in folds for row in fold.held_out) == sorted(map(where, rows))
    for fold in folds:
        assert not {row.group for row in fold.train} & {row.group for row in fold.held_out}
        assert {row.answer for row in fold.held_out} == {*LABELS}


def test_whole_machines_are_held_out_where_there_are_several(tmp_path: Path) -> None:
    rows, notes = in_groups(read(tmp_path, lines(120, machine=lambda at: f"pump-{at % 4}", ts=lambda at: at)))
    assert not notes
    folds, words = folds_of(rows, 0)
    assert words == "120 rows of 4 machines, each by a model that has never seen its machine"
    for fold in folds:
        assert not {row.machine for row in fold.train} & {row.machine for row in fold.held_out}


def test_a_fault_of_one_machine_alone_is_named_where_others_are_of_several(tmp_path: Path) -> None:
    text = lines(120, machine=lambda at: f"pump-{at % 4}")
    only = [json.loads(line) for line in text.splitlines()]
    mixed = "".join(json.dumps(row) + "\n" for row in only if row["machine"] == "pump-1" or row["answer"] == "calm")
    rows, _ = in_groups(read(tmp_path, mixed))
    assert not any(row.group == row.machine for row in rows)
    three = TASKS.replace('"loud"]', '"loud", "odd"]')
    more = json.dumps({**only[0], "machine": "pump-1", "answer": "odd"}) + "\n"
    rows, [note] = in_groups(read(tmp_path, text + more * 3, tasks=three))
    assert all(row.group == row.machine for row in rows)
    assert note.startswith('task sound: "odd": rows of one machine alone')


def test_two_machines_are_too_few_to_hold_one_out(tmp_path: Path) -> None:
    rows, _ = in_groups(read(tmp_path, lines(120, machine=lambda at: f"pump-{at % 2}")))
    assert not any(row.group == row.machine for row in rows)


def test_rows_without_a_group_beside_others_become_blocks_of_time(tmp_path: Path) -> None:
    text = lines(200, group=lambda at: f"day {at % 10}", ts=lambda at: at) + lines(60, ts=lambda at: 1000 - at)
    rows, notes = in_groups(read(tmp_path, text))
    assert notes == ["task sound: 60 of 260 rows have no group: 7 blocks of neighbours in time stand in for groups"]
    blocks = [(row.group, row.time) for row in rows[200:]]
    assert len(blocks) == 60
    assert [group for group, _ in blocks] == sorted(f"block {number * 7 // 60}" for number in range(60))


@pytest.mark.parametrize("step", [0.2, 1.0])
@pytest.mark.parametrize("has_machine", [True, False])
def test_faults_of_a_file_of_their_own_are_in_several_blocks(tmp_path: Path, step: float, *, has_machine: bool) -> None:
    usual = [
        row | {"answer": "calm"} | ({"machine": f"pump-{at % 3}"} if has_machine else {})
        for at, row in enumerate(wandering(400, step=step))
    ]
    # The board's rows are later, and do not say their machine.
    found = [row | {"ts": 1000 + at} for at, row in enumerate(in_episodes(80))]
    (tmp_path / "usual.jsonl").write_text(as_text(usual), "utf-8")
    read(tmp_path, as_text(found))
    files = [tmp_path / "usual.jsonl", tmp_path / "rows.jsonl"]
    rows, notes = in_groups(read_training_rows(files, read_tasks(tmp_path / "config.toml"))[0])
    assert [" blocks of neighbours in time stand in for groups" in note for note in notes] == [True]
    folds, _ = folds_of(rows, 0)
    assert {row.answer for fold in folds for row in fold.held_out} == {*LABELS}
    assert all({row.answer for row in fold.train} == {*LABELS} for fold in folds)


def test_a_label_whose_rows_are_all_of_one_group_is_named(tmp_path: Path) -> None:
    text = lines(100, group=lambda at: "last" if at % 10 >= 5 else at % 10)
    [note] = in_groups(read(tmp_path, text))[1]
    assert note.startswith('task sound: "loud": rows of one group alone')


def test_rows_of_a_task_without_groups_are_spread_over_the_parts(tmp_path: Path) -> None:
    more = "".join(
        json.dumps({"task": "report", "input": f"a {at}", "answer": {"stop": True}}) + "\n" for at in range(9)
    )
    text = lines(60, task=lambda _: "sound", group=lambda at: at % 10) + more
    folds, _ = folds_of(read(tmp_path, text, tasks=TASKS + REPORT), 0)
    assert {sum(row.task.name == "report" for row in fold.held_out) for fold in folds} <= {1, 2}


def where(row: Row) -> str:
    return row.request.where


def test_of_many_rows_as_many_groups_are_held_out_as_an_interval_needs(tmp_path: Path) -> None:
    for groups, count in ((20, 3), (100, 1), (4, 4)):
        rows, _ = in_groups(read(tmp_path, lines(1000, group=lambda at, groups=groups: at % groups)))
        assert len(folds_of(rows, 0)[0]) == count
    # Only the last two of 60 groups are loud, and they are held out in different parts.
    of_calm = lines(1160, group=lambda at: at % 58).replace("loud", "calm")
    of_loud = lines(14, group=lambda at: f"loud {at % 2}").replace("calm", "loud")
    rows, _ = in_groups(read(tmp_path, of_calm + of_loud))
    folds, words = folds_of(rows, 0)
    judged = [row for fold in folds for row in fold.held_out]
    assert words.startswith(f"{len(judged):,} rows of ")
    assert sum(row.answer == "loud" for row in judged) >= 10
    rows, _ = in_groups(read(tmp_path, lines(60, group=lambda _: "all")))
    with pytest.raises(ConvertError, match="task sound: has too few rows"):
        folds_of(rows, 0)


def wandering(number: int, *, ts: bool = True, step: float = 0.2) -> list[dict[str, Any]]:
    """Readings of a level that wanders slowly, if `step` is small, and a label that has nothing to do with it."""
    draw, level, rows = random.Random(1), 0.0, list[dict[str, Any]]()
    for at in range(number):
        level = (1 - step**2 / 2) * level + step * draw.gauss(0, 1)
        row = {"input": {"level": level, "noise": draw.random() / 9}, "answer": draw.choice(LABELS)}
        rows.append(row | ({"ts": at} if ts else {}))
    return rows


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def in_episodes(number: int) -> list[dict[str, Any]]:
    """Rows whose label stays for 20 of them; the values are independent."""
    return [row | {"answer": LABELS[at // 20 % 2]} for at, row in enumerate(wandering(number, step=1.0))]


@pytest.mark.parametrize(
    ("rows", "alike"),
    [
        (wandering(400), "the values of neighbouring rows in time are alike"),
        (wandering(400, ts=False), "the values of neighbouring rows in the file are alike"),
        (
            sorted(wandering(400, ts=False), key=lambda row: str(row["answer"])),
            "the values of neighbouring rows in the file",
        ),
        (in_episodes(400), "the answers of neighbouring rows in time are alike"),
        (wandering(400, step=1.0), None),
        (sorted(wandering(400, ts=False, step=1.0), key=lambda row: str(row["answer"])), None),
    ],
)
def test_rows_in_runs_become_blocks_of_time_and_others_do_not(
    tmp_path: Path, rows: list[dict[str, Any]], alike: str | None
) -> None:
    found, notes = in_groups(read(tmp_path, as_text(rows)))
    if alike is None:
        assert (notes, {row.group for row in found}) == ([], {None})
        return
    assert alike in notes[0]
    sizes = Counter(row.group for row in found).values()
    assert max(sizes) - min(sizes) <= 2
    # Longer than the runs, because a wandering level is alike for about 50 rows, and an answer for 20.
    assert len(sizes) in ((MIN_BLOCKS, MIN_BLOCKS + 1) if "values" in alike else (12,))
    assert all({row.answer for row in fold.held_out} == {*LABELS} for fold in folds_of(found, 0)[0])


def test_files_of_both_kinds_count_as_one_and_what_two_have_counts_once(tmp_path: Path) -> None:
    old = read(
        tmp_path, "rms,answer\n" + "1,calm\n1,calm\n" + "".join(f"{at},loud\n" for at in range(5, 60)), name="old.csv"
    )
    assert [row.text for row in old[:2]] == ['{"rms":1}'] * 2
    new = [{"input": {"rms": at}, "answer": "loud", "ts": 9} for at in (100, 100, 101)]
    (tmp_path / "new.jsonl").write_text(as_text([*new, {"input": {"rms": 5}, "answer": "loud"}]), "utf-8")
    rows, notes = read_training_rows(
        [tmp_path / "old.csv", tmp_path / "new.jsonl"], read_tasks(tmp_path / "config.toml")
    )
    assert notes == [
        "2 rows are repeats and are left out",
        "57 of 59 rows have no time and count as the oldest",
    ]
    assert [row.text for row in rows] == [*(row.text for row in old), '{"rms":100}', '{"rms":101}']
    assert {row.time for row in rows} == {8.0, 9.0}


def test_a_row_that_two_files_have_counts_once_with_the_group_that_one_of_them_names(tmp_path: Path) -> None:
    plain = [{"ts": at, "input": {"rms": at % 7}, "answer": LABELS[at % 2]} for at in range(60)]
    grouped = [row | {"group": f"day {at // 20}"} for at, row in enumerate(plain)]
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    tasks = read_tasks(tmp_path / "config.toml")
    for number, files in enumerate([(plain, grouped), (grouped, plain)]):
        paths = [tmp_path / f"{number}{part}.jsonl" for part in "ab"]
        for path, rows in zip(paths, files, strict=True):
            path.write_text(as_text(rows), "utf-8")
        read_twice, _ = read_training_rows(paths, tasks)
        assert [row.group for row in read_twice] == [row["group"] for row in grouped]


def test_of_different_answers_to_a_reading_with_a_time_the_last_one_counts(tmp_path: Path) -> None:
    def answered(at: int, answer: str, **more: Any) -> dict[str, Any]:
        return {"ts": at, "machine": "P1", "input": {"rms": 1, "x": True}, "answer": answer, **more}

    # It does not matter how the input is written.
    old = [answered(at, "calm", group="May", input={"note": " ", "x": True, "rms": "1.0"}) for at in range(60)]
    new = [*(answered(at, "loud") for at in range(12)), *old[12:], answered(59, "loud")]
    new.append(answered(0, "loud", machine="P2"))
    timeless = [{"input": {"rms": 1}, "answer": answer} for answer in LABELS]
    for name, lines in (("old", old), ("new", new), ("a", timeless[:1]), ("b", timeless[1:])):
        (tmp_path / f"{name}.jsonl").write_text(as_text(lines), "utf-8")
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    paths = [tmp_path / f"{name}.jsonl" for name in ("old", "new", "a", "b")]
    rows, notes = read_training_rows(paths, read_tasks(tmp_path / "config.toml"))
    assert notes[:2] == [
        "48 rows are repeats and are left out",
        "13 rows are left out, because a later row of the same reading has another answer",
    ]
    assert {(row.time, row.machine): (row.answer, row.group) for row in rows if row.machine is not None} == {
        **{(at, "P1"): ("loud" if at in (*range(12), 59) else "calm", "May") for at in range(60)},
        (0, "P2"): ("loud", None),
    }
    assert [row.answer for row in rows if row.machine is None] == [*LABELS]


def test_what_rows_are_read_as_and_their_doubts_come_without_pytorch(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text(TASKS.replace('"loud"]', '"loud", "shrill"]'), "utf-8")
    cells = [f'{at * 7 % 60},"{at * 11 % 60},5",50,{at * 13 % 60 if at % 5 else "n/a"},{900 + at}' for at in range(60)]
    rows = [f"{line},{LABELS[at % 2]}" for at, line in enumerate([*cells, *cells[-1:], *cells[-1:]])]
    rows_csv = tmp_path / "rows.csv"
    rows_csv.write_text("\n".join(["rms,level,mains,gap,seq,answer", *rows]), "utf-8")
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    files = ("--tasks", tmp_path / "config.toml", "--labelled", rows_csv)
    done = cli("train", *files, "--check")
    read = ["sound: 62 rows: calm 31, loud 31, shrill 0", "  reads as numbers: rms, mains, seq"]
    assert (done.returncode, done.stdout.splitlines()) == (0, [*read, "  reads as texts: level, gap"])
    rule = (
        "if it is a counter or a clock, leave it out, because later readings have numbers that no row has; "
        "of a counter in signals, keep the slope"
    )
    doubts = [
        '"shrill" has 0 rows, too few to learn it or to judge it',
        f"seq only rises from row to row: {rule}",
        "the field mains is always 50, so nothing is learnt from it",
        'the field level is read as a text: 62 values such as "0,5" have a decimal comma; write a point',
        'the field gap is read as a text, because 12 of 62 values are not numbers, such as "n/a"',
        f"3 rows have the same input as a row with another label, such as {rows_csv}:61 and {rows_csv}:62",
    ]
    assert done.stderr == "".join(f"edge-convert: warning: task sound: {doubt}\n" for doubt in doubts)
    document = json.loads(cli("train", *files, "--check", "--json").stdout)
    assert document["tasks"][0]["labels"] == {"calm": 31, "loud": 31, "shrill": 0}
    assert len(document["doubts"]) == len(doubts)


def test_rows_that_a_model_reads_alike_and_that_have_different_labels_are_a_doubt(tmp_path: Path) -> None:
    same = [{"rms": 7, "x": {"y": "a"}}, {"x.y": "a", "rms": "7.0"}, {"note": None, "x": {"y": "a", "z": ""}, "rms": 7}]
    others = [{"rms": at % 7, "x": {"y": "b"}} for at in range(60)]
    answered = [{"input": value, "answer": "calm"} for value in others] + [
        {"input": value, "answer": answer} for value, answer in zip(same, [*LABELS, "calm"], strict=True)
    ]
    [doubt] = [doubt for doubt in read_as(read(tmp_path, as_text(answered)))[1] if "same input" in doubt]
    assert doubt.startswith("task sound: 3 rows have the same input as a row with another label, such as ")
    assert doubt.endswith(f"rows.jsonl:61 and {tmp_path / 'rows.jsonl'}:62")


def test_a_label_with_nearly_all_rows_is_a_doubt_that_says_how_many_to_keep() -> None:
    [doubt] = imbalance_doubts({"bearing": 54, "usual": 11_486, "vanes": 445})
    assert doubt == (
        '"usual" has 11,486 rows, and all other labels together have 499, so the model may never recognize some of '
        'these: keep about 1,500 rows of "usual", drawn at random from all of them'
    )
    assert list(imbalance_doubts({"calm": 1001, "loud": 60, "shrill": 40}))
    for few in ({"calm": 1000, "loud": 60, "shrill": 40}, {"calm": 999, "loud": 20}, {"calm": 1000, "loud": 19}):
        assert not list(imbalance_doubts(few))
    assert not list(imbalance_doubts({}))


def test_a_decimal_comma_in_few_rows_is_a_doubt_because_the_model_reads_no_number_there(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"input": {"rms": at % 50, "bar": at % 50 / 7}, "answer": LABELS[at % 2]} for at in range(100)
    ]
    rows[7]["input"] |= {"rms": "7,5", "bar": "1,25"}
    rows[9]["input"] |= {"bar": "1,35"}
    [doubt] = read_as(read(tmp_path, as_text(rows)))[1]
    assert doubt.startswith('task sound: 2 rows with decimal commas in 2 fields, such as "7,5" in rms, ')
    assert doubt.endswith("rows.jsonl:8: these numbers are lost; write points")


def test_a_field_that_seems_to_belong_to_the_row_is_a_doubt(tmp_path: Path) -> None:
    def doubts(name: str, value: Callable[[int], Any]) -> list[str]:
        rows = [{"input": {"rms": at * 7 % 60, name: value(at)}, "answer": LABELS[at % 2]} for at in range(60)]
        return [doubt.removeprefix("task sound: the field ") for doubt in read_as(read(tmp_path, as_text(rows)))[1]]

    of_row = "is read by the model; call it {} if it belongs to the row, not to the reading"
    assert doubts("Timestamp", lambda at: 1e9 + at % 50) == [f"Timestamp {of_row.format('timestamp')}"]
    assert doubts("MACHINE", lambda at: f"K {at % 3}") == [f"MACHINE {of_row.format('machine')}"]
    for name, form in (("Zeit", "06:00:{}"), ("Datum", "09.11.20{}"), ("when", "2026-11-09T06:{}:00Z")):
        assert doubts(name, form.format)[0].startswith(f"{name} looks like a time")
    assert doubts("id", lambda at: f"A-{at}") == [
        'id differs in every row, such as "A-0"; leave it out if it is an identifier'
    ]
    assert doubts("rarely", lambda at: f"A-{at}" if at < 3 else None) == []
    assert doubts("remark", lambda at: f"remark {at}") == doubts("mode", lambda at: f"mode{at % 9}") == []


def test_all_answers_that_the_task_cannot_give_are_listed_at_once(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    rows = tmp_path / "rows.csv"
    rows.write_text("rms,answer\n" + "1,calm\n2,Loud\n3,\n" * 30, "utf-8")
    done = cli("train", "--tasks", tmp_path / "config.toml", "--labelled", rows, "--check")
    rule = "answer: should be one of calm, loud"
    assert (
        done.stderr
        == f'edge-convert: {rows}:3: {rule} (got "Loud"), in 30 rows\n{rows}:4: {rule} (got ""), in 30 rows\n'
    )


def test_a_folder_that_exists_is_noticed_before_anything_is_read(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convert.learning.commands.missing_extra", lambda _name: None)
        done = cli("train", "--tasks", tmp_path / "none", "--labelled", tmp_path / "none", "--out", tmp_path / "bundle")
    assert (done.returncode, "bundle: already exists; --force replaces it" in done.stderr) == (1, True)


def test_the_interval_of_rows_in_groups_is_that_of_fewer_rows(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100, group=lambda at: at // 10))
    wrong = range(30, 50)
    grouped = task_quality(rows, build_table(rows), answered(rows, wrong), None)
    alone = task_quality(
        [replace(row, group=None) for row in rows],
        build_table(rows),
        answered([replace(row, group=None) for row in rows], wrong),
        None,
    )
    assert (grouped.accuracy, alone.accuracy, alone.independent) == (0.8, 0.8, 100)
    assert grouped.independent < 10
    assert grouped.interval[0] < 0.4 < 0.7 < alone.interval[0]


def test_held_out_rows_are_counted_by_score_and_those_of_groups_as_fewer(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100, group=lambda at: at // 10))
    surer = answered(rows[:50], [3], 0.9)
    alone = [replace(row, group=None) for row in rows]
    assert held_out_counts([*answered(alone[50:], range(5), 0.7777), *answered(alone[:50], [3], 0.9)]) == (
        (0.9, 49, 50),
        (0.777, 45, 50),
    )
    grouped = held_out_counts([*surer, *answered(rows[50:], range(40), 0.7)])
    assert sum(count for _, _, count in grouped) < 10
    lesson = replace(alone[0], chances={"calm": 1.0})
    assert held_out_counts(answered([lesson], [])) == ()


def test_a_refusal_says_what_may_help_after_the_usual_report(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read(tmp_path, lines(100))
    quality = task_quality(rows, build_table(rows), answered(rows, range(50)), Baseline(name="boosting", right=98))

    def refuse(*_: object) -> None:
        raise UselessError(quality.why_useless, "all rows", (quality,))

    # The module needs PyTorch.
    training = SimpleNamespace(TrainingJob=lambda **_: None, write_trained_bundle=refuse)
    monkeypatch.setitem(sys.modules, "convert.learning.training", training)
    monkeypatch.setattr(extras, "find_spec", lambda _name: True)
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    rows_file = tmp_path / "rows.jsonl"
    done = cli("train", "--tasks", tmp_path / "config.toml", "--labelled", rows_file, "--out", tmp_path / "bundle")
    assert (done.returncode, (tmp_path / "bundle").exists()) == (1, False)
    assert "boosting on the same rows: 98.0 %\n" in done.stdout
    assert "right by label: calm 25 of 50, loud 25 of 50\n" in done.stdout
    assert (
        "task sound: 50.0 % right is no better than always giving the most frequent answer (50.0 %); "
        "more --steps, or more rows of the rare labels, may help; --any-accuracy writes it anyway\n"
    ) in done.stderr


def test_a_model_no_better_than_one_answer_is_useless(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    for wrong, is_useless in ((range(49), False), (range(50), True)):
        assert task_quality(rows, build_table(rows), answered(rows, wrong), None).is_useless == is_useless
    # Answers that are not given, because the input is unlike training, say nothing about that.
    unlike = [replace(one, output=None, is_unlike=True) for one in answered(rows, [])]
    assert not task_quality(rows, build_table(rows), unlike, None).is_useless


def test_labels_that_were_never_right_are_named_with_what_may_help(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(200))
    calm, loud = ([row for row in rows if row.answer == label] for label in ("calm", "loud"))

    def warning(few: int, right: int) -> str | None:
        answers = answered([*calm, *loud[:few]], range(len(calm) + right, len(calm) + few))
        return task_quality(rows, build_table(rows), answers, None).never_recognized

    assert (warning(10, 1), warning(9, 0)) == (None, None)
    assert warning(10, 0) == (
        "task sound: the judged models never recognized loud (0 of 10 rows); what may help: fewer rows of calm, "
        "more --steps or --minutes, or more rows or groups of these labels"
    )


def test_many_rows_are_held_out_in_one_part(tmp_path: Path) -> None:
    [fold], words = folds_of(read(tmp_path, lines(1000)), 0)
    assert (len(fold.train), len(fold.held_out)) == (800, 200)
    assert words == "200 rows, drawn at random from those of each answer"


def test_fields_are_numbers_or_texts_and_times_are_neither(tmp_path: Path) -> None:
    values = [
        {"input": {"ts": at, "rms": at / 7, "gear": at % 3, "note": f"n{at}", "at": {"hall": 1}}, "answer": label}
        for at, label in enumerate(["calm", "loud"] * 50)
    ]
    table = build_table(read(tmp_path, "".join(json.dumps(value) + "\n" for value in values)))
    edges = {field.name: field.edges for field in table.fields}
    assert table.tasks["sound"].fields == ("rms", "gear", "note", "at.hall")
    assert edges["gear"] == (0.0, 1.0, 2.0)
    assert edges["note"] is None
    assert edges["at.hall"] == (1.0,)
    assert edges["rms"] is not None
    assert (len(edges["rms"]), edges["rms"][0], edges["rms"][-1]) == (65, 0.0, 99 / 7)


def test_a_model_knows_what_it_learnt_from_however_its_values_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read(tmp_path, lines(60, ts=float) + lines(60, group=str))
    table = build_table(rows)
    learnt = table.fingerprints["sound"]
    known = {learnt[at : at + FINGERPRINT_BYTES] for at in range(0, len(learnt), FINGERPRINT_BYTES)}
    assert len(known) == 60
    for text in (
        '{"rms": 1.001}',
        '{"ts": 7, "rms": "1.0010"}',
        '{"rms":1.001,"group":"a","machine":"b","other":null}',
    ):
        assert fingerprint(text) in known
    assert not known & {fingerprint(text) for text in ('{"rms": 1.002}', '{"rms": 1.001, "x": 1}', "1.001", "")}
    assert FieldTable.model_validate_json(table.model_dump_json(by_alias=True)).fingerprints == table.fingerprints
    monkeypatch.setattr(field_table, "MAX_FINGERPRINTS", 59)
    assert build_table(rows).fingerprints == {}


def with_codes(folder: Path, number: int = 400, stray: float = 300) -> list[Row]:
    """Ordinary readings, of which some have a code in a field, one has a stray number, and one a text."""
    draw = np.random.default_rng(0)
    values: list[dict[str, Any]] = [
        {"rms": 2 + draw.normal() / 4, "amps": draw.uniform(60, 140), "note": "ok"} for _ in range(number)
    ]
    for at, code in enumerate([-99, 65535, 0] * 4):
        values[7 * at]["rms"] = code
    for at, state in enumerate([0, 0, 0, "ERR", "ERR", 0]):
        values[11 * at + 200]["amps"] = state
    values[3]["rms"], values[4]["amps"] = stray, "97,5"
    del values[5]["note"]
    rows = [{"input": value, "answer": LABELS[at % 2]} for at, value in enumerate(values)]
    return read(folder, "".join(json.dumps(row) + "\n" for row in rows))


def test_codes_and_stray_numbers_leave_the_bins_and_the_ranges(tmp_path: Path) -> None:
    table = build_table(with_codes(tmp_path))
    assert set(table.codes) == {-99.0, 0.0, 65535.0, "ERR"}
    rms, amps, _ = table.fields
    assert rms.edges is not None
    assert amps.edges is not None
    for field, low, high in ((rms, 1, 3), (amps, 60, 140)):
        assert field.edges is not None
        assert field.usual is not None
        assert field.accepted is not None
        assert low < field.edges[0] < field.usual[0] < field.usual[1] < field.edges[-1] < high
        assert field.accepted[0] < field.edges[0] < field.edges[-1] < field.accepted[1] < 1.2 * high
    # A stray text in a number is no missing field.
    assert (table.tasks["sound"].required, table.tasks["sound"].min_numbers) == (("rms", "amps"), 2)
    prompts = [" ".join(map(str, table.parts("sound", {"rms": rms}))) for rms in (-99, 65535, 300, 2)]
    assert ["code" in prompt for prompt in prompts] == [True, True, False, False]


def test_a_code_is_odd_in_a_field_that_no_row_had_it_in(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    names = ("rms", "amps", "bar")
    rows: list[dict[str, Any]] = [
        {"input": {name: draw.uniform(60, 140) for name in names}, "answer": LABELS[at % 2]} for at in range(400)
    ]
    for number, (field, code) in enumerate([("rms", -99), ("amps", -99), ("amps", 0)] * 3):
        rows[number]["input"][field] = code
    table = build_table(read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    odd = {
        code: {each.field: each.why for each in table.odd_fields("sound", dict.fromkeys(names, code))}
        for code in (-99, 0)
    }
    assert odd == {-99: {"bar": "out-of-range"}, 0: {"rms": "out-of-range", "bar": "out-of-range"}}


def test_a_code_of_one_field_is_also_a_code_in_a_field_with_a_wide_range(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    values: list[dict[str, Any]] = [
        {"rms": 2 + draw.normal() / 4, "rpm": draw.uniform(0, 1500), "flow": draw.uniform(0, 30) if at % 20 else 0}
        for at in range(400)
    ]
    for at, code in enumerate([-99, 0] * 3):
        values[50 * at + 1]["rms"] = code
    values[7]["rpm"] = -99
    rows = read(
        tmp_path, "".join(json.dumps({"input": one, "answer": LABELS[at % 2]}) + "\n" for at, one in enumerate(values))
    )
    # A flow may be 0, although a vibration of 0 is a code.
    assert [field.codes for field in build_table(rows).fields] == [(-99.0, 0.0), (-99.0,), ()]
    assert any("the field rpm: 1 row has -99: an error code" in doubt for doubt in read_as(rows)[1])
    assert [field.low >= 0 for field in learn_usual(values).numbers] == [True] * 3


def test_margins_are_narrow_where_rows_are_many_and_wide_where_they_drift(tmp_path: Path) -> None:
    def margin(number: int, rise: float) -> float:
        draw = np.random.default_rng(0)
        values = [{"bar": 7 + draw.normal(), "oil": 60 + draw.normal() + rise * at / number} for at in range(number)]
        rows = [{"input": value, "answer": LABELS[at % 2]} for at, value in enumerate(values)]
        field = build_table(read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))).fields[0]
        assert field.accepted is not None
        assert field.edges is not None
        return field.accepted[1] - field.edges[-1]

    few, many, drifting = margin(50, 0), margin(2000, 0), margin(2000, 20)
    assert 0 < many < 0.5 < few < 3
    assert many * 2 < drifting < 3.5


def test_numbers_that_stay_clear_of_0_do_not_accept_it(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    values = [{"bar": 1.5 + float(draw.exponential(2)), "hours": draw.uniform(0, 24)} for _ in range(60)]
    values = [value | {"vacuum": -value["bar"], "dew": value["hours"] - 9} for value in values]
    rows = [{"input": value, "answer": LABELS[at % 2]} for at, value in enumerate(values)]
    table = build_table(read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    odd = {odd.field for odd in table.odd_fields("sound", {"bar": 0, "hours": 0, "vacuum": 0, "dew": 0})}
    assert odd == {"bar", "vacuum"}


def test_values_of_few_kinds_or_with_long_tails_are_ordinary(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    values = [
        {"alarm": int(at % 50 == 0), "gear": (1, 2, 10)[at % 3], "flow": 0 if at % 20 else draw.uniform(1, 30),
         "size": float(np.exp(draw.normal(0, 1)))}
        for at in range(400)
    ]  # fmt: skip
    rows = [{"input": value, "answer": LABELS[at % 2]} for at, value in enumerate(values)]
    table = build_table(read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    for field in table.fields:
        assert not outliers_of(field, [value[field.name] for value in values])
    assert table.codes == ()


def test_codes_are_doubts_and_shown_beside_the_usual_values(tmp_path: Path) -> None:
    # No sensor has a code such as 210.123, but the spread over a window that covers a change may be such a number.
    rows = with_codes(tmp_path, stray=210.123)
    assert not [doubt for doubt in read_as(rows)[1] if "210.123" in doubt]
    rows = with_codes(tmp_path)
    doubts = [doubt for doubt in read_as(rows)[1] if "error code" in doubt]
    rms = "4 rows have -99, 4 rows have 65535, 4 rows have 0, 1 row has 300"
    assert doubts == [
        f"task sound: the field rms: {rms}: an error code, or a state such as off?",
        'task sound: the field amps: 4 rows have 0, 2 rows have "ERR": an error code, or a state such as off?',
    ]
    off = [{"input": {"rms": at % 9 + 50, "amps": at % 7 + 90}, "answer": LABELS[at % 2]} for at in range(100)]
    off[:4] = [row | {"input": {"rms": 0, "amps": 0}} for row in off[:4]]
    doubts = [doubt for doubt in read_as(read(tmp_path, as_text(off)))[1] if "error code" in doubt]
    both = "task sound: the field rms, the field amps: 4 rows have 0: an error code, or a state such as off?"
    assert doubts == [both]
    quality = task_quality(rows, build_table(rows), answered(rows, []), None)
    assert quality.fields[0].outliers == {"-99": 4, "65535": 4, "0": 4, "300": 1}
    assert quality.fields[1].high is not None
    assert quality.fields[1].high < 140


def times(rows: Sequence[Row]) -> list[float]:
    return sorted(row.time for row in rows if row.time is not None)


def answered(rows: Sequence[Row], wrong: Sequence[int], score: float = 0.96) -> list[AnsweredRow]:
    found = []
    for at, row in enumerate(rows):
        other = "calm" if row.answer == "loud" else "loud"
        output = other if at in wrong else row.answer
        rest = row.answer if at in wrong else other
        found.append(AnsweredRow(row, output, {output: score, rest: 1 - score}))
    return found


def test_the_quality_says_how_right_it_is_and_which_rows_to_look_at(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    quality = task_quality(rows, build_table(rows), answered(rows, [3]), Baseline(name="a rule", right=98))
    low, high = quality.interval
    assert (quality.right, quality.judged, quality.most_frequent) == (99, 100, 50)
    assert 0.94 < low < 0.99 < high < 1
    assert not quality.hardly_judged
    few = task_quality(rows, build_table(rows), answered([*rows[:5], *rows[10:20]], []), None)
    assert few.hardly_judged == {"loud": 5}
    assert "says little about labels with so few held-out rows:\nloud 5." in page_of(few)
    assert quality.confusion == {"calm": {"calm": 49, "loud": 1}, "loud": {"calm": 0, "loud": 50}}
    [suspect] = quality.suspects
    assert (suspect.answer, suspect.model_answer, suspect.score) == ("calm", "loud", 0.96)
    assert suspect.where.endswith("rows.jsonl:4")
    assert quality.calibration_error == pytest.approx(0.03)
    assert [(field.name, field.low, field.high, field.missing) for field in quality.fields] == [("rms", 0, 9.089, 0)]


def test_rows_in_groups_that_a_model_contradicts_are_named_by_group_and_the_model_is_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read(tmp_path, lines(100, group=lambda at: f"episode {at // 10}"))
    quality = task_quality(rows, build_table(rows), answered(rows, [3, *range(40, 45)]), None)
    assert quality.suspects_by_group == {"episode 4": 5, "episode 0": 1}
    assert "5 in episode 4, 1 in episode 0. The model" in page_of(quality)
    print_training(training_of(quality, name="pumps"), tmp_path, is_signed=False)
    printed = capsys.readouterr().out
    assert "5 in episode 4, 1 in episode 0\n    it had not seen these groups" in printed
    assert "right by label: calm 44 of 50 (10 groups), loud 50 of 50 (10 groups)" in printed
    assert "answers may be wrong" not in printed


def test_the_groups_of_rows_are_said(tmp_path: Path) -> None:
    [days] = read_as(in_groups(read(tmp_path, lines(100, group=lambda at: f"day {at % 10}")))[0])[0]
    assert days.grouped == "10 groups, such as day 0"
    [machines] = read_as(in_groups(read(tmp_path, lines(120, machine=lambda at: f"pump-{at % 4}")))[0])[0]
    assert machines.grouped == "4 groups, which are the machines"


def test_the_interval_allows_for_rows_that_the_judged_models_lacked(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    table = build_table(rows)
    for wrong in (0, 20):
        low, high = task_quality(rows, table, answered(rows, range(wrong)), None).interval
        assert low == pytest.approx(share_interval(100 - wrong, 100)[0])
        assert high == pytest.approx(share_interval(100 - 0.8 * wrong, 100)[1])


def test_the_page_shows_it_and_escapes_texts(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    quality = task_quality(rows, build_table(rows), answered(rows, [3, 60]), Baseline(name="a rule", right=99))
    training = training_of(quality, name="<b>pumps</b>")
    page = render_training(training)
    assert "<b>" not in page
    assert "0.0 % of these rows are taken for unlike training" in page
    assert "98.0 % right" in page
    assert "A rule is right more often here." in page
    assert "rows.jsonl:4" in page
    document = json.loads(training.encode())
    assert document["tasks"][0]["interval"] == pytest.approx(quality.interval)


def test_few_ordinary_rows_are_taken_for_unlike_training(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    answers = [replace(one, unlike=float(at)) for at, one in enumerate(answered(rows, []))]
    limits = limits_of(answers)
    assert limits == (97.0, None)
    found = with_limits(answers, limits)
    assert [one.row for one in found if one.is_unlike] == [rows[98], rows[99]]
    assert [one.output for one in found[97:]] == [rows[97].answer, None, None]
    # A row with an odd field gets no label, whatever the limits are, and they are set without it.
    odd = [replace(one, is_odd=at == 99) for at, one in enumerate(answers)]
    assert limits_of(odd)[0] == 97.0
    assert [one.row for one in with_limits(odd, (99.0, None)) if one.is_unlike] == [rows[99]]
    # Texts that several rows have are never unlike training.
    assert limits_of([replace(one, strangeness=0.0) for one in answers], 2.5) == (98.0, 2.5)
    # Each kind has half of the share.
    both = limits_of([replace(one, strangeness=-float(at)) for at, one in enumerate(answers)])
    assert both == (98.0, -1.0)
    assert limits_of([]) == (None, None)


def related(count: int, seed: int = 0) -> str:
    """Rows whose speed follows the load on one line where it is calm and another where it is loud; some lack it."""
    draw = random.Random(seed)
    rows = []
    for at in range(count):
        label, load = at % 2, draw.uniform(0, 10)
        value = {"load": load, "speed": (10 - load if label else load) + draw.gauss(0, 0.2), "hall": "n" * (at % 3)}
        rows.append({"input": value if at % 10 else {"load": load}, "answer": LABELS[label]})
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_numbers_that_do_not_go_together_are_the_rarest(tmp_path: Path) -> None:
    rows, later = read(tmp_path, related(400)), read(tmp_path, related(200, seed=1))
    table = build_table(rows)
    answers = with_scores(answered(later, []), rows, table, 0)
    limit, _ = limits_of(answers)
    assert limit is not None
    usual = learn_numbers(rows, table, 0)
    assert usual is not None
    assert [field.name for field in usual.numbers] == ["load", "speed"]
    rarity = RarityModel(with_held_out(usual, answers))
    # A gap and a text count for nothing, and each of these speeds is usual with one of the labels.
    for usual_one in ({"load": 2.0, "speed": 2.0}, {"load": 2.0, "speed": 8.0}, {"load": 2.0}, {}):
        assert rarity.score(usual_one) < limit
    compared = rarity.compare({"load": 2.0, "speed": 5.0})
    assert compared.score > limit
    assert len(compared.because) == 1
    assert usual == learn_numbers(rows, table, 0)


def test_what_goes_together_is_learnt_for_answers_that_are_scored(tmp_path: Path) -> None:
    hours = '[tasks.sound]\nkind = "estimate"\n'
    as_hours = "".join(
        json.dumps({"input": {"rms": at % 10, "rpm": at % 7}, "answer": at % 9}) + "\n" for at in range(50)
    )
    for text, tasks, is_learnt in (
        (lines(50), TASKS, True),
        (as_hours, hours, True),
        # It does not apply to texts, a switch, and answers that are written.
        (lines(50).replace('{"rms": ', '"a ').replace('}, "answer', '", "answer'), TASKS, False),
        ('{"input": {"on": 1}, "answer": "calm"}\n{"input": {"on": 0}, "answer": "loud"}\n' * 50, TASKS, False),
        ('{"input": {"rms": 1}, "answer": {"stop": true}}\n' * 50, REPORT, False),
    ):
        rows = read(tmp_path, text, tasks=tasks)
        assert (learn_numbers(rows, build_table(rows), 0) is not None) is is_learnt


def test_the_page_keeps_a_teacher_and_its_student_apart(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    teacher = TeacherQuality(lessons=400, is_corrected=True, judged=100, right=99, compared=80, agreed=60)
    page = page_of(task_quality(rows, build_table(rows), answered(rows, [3, 60]), None, teacher=teacher))
    assert "weights of SHA-256 0123" in page
    assert "98.0 % right" in page
    assert "its teacher, corrected by labelled rows" in page
    assert "99.0 %" in page
    assert "The teacher is right more often here." in page
    assert "the teacher&#39;s answers to 400 rows without labels" in page.replace("teacher's", "teacher&#39;s")
    assert "75.0 % of the answers are the teacher's" in page
    assert "is labelled" not in page
    assert "Train without it" not in page


def test_the_page_doubts_a_teacher_that_labels_alone_surpass(tmp_path: Path) -> None:
    rows = read(tmp_path, lines(100))
    teacher = TeacherQuality(lessons=400, is_corrected=False, judged=50, right=40, compared=80, agreed=60)
    for right, is_doubtful in ((80, False), (81, True)):
        baseline = Baseline(name="a rule", right=right)
        answers = answered(rows, [3])
        quality = task_quality(rows, build_table(rows), answers, baseline, teacher=teacher)
        assert ("less often than a rule on the labelled rows" in page_of(quality)) == is_doubtful


def test_without_labelled_rows_the_page_speaks_of_agreement(tmp_path: Path) -> None:
    lessons = [replace(row, chances={row.answer: 1.0}) for row in read(tmp_path, lines(100))]
    teacher = TeacherQuality(lessons=100, is_corrected=False, judged=0, right=0, compared=0, agreed=0)
    quality = task_quality(lessons, build_table(lessons), answered(lessons, [3]), None, teacher=teacher)
    assert (quality.is_agreement, quality.rows, quality.suspects) == (True, 100, ())
    page = page_of(quality)
    assert "99.0 % as the teacher" in page
    assert "Here, a right answer is the one that the teacher gives." in page
    assert "of the answers are the teacher's" not in page
    assert "more often here" not in page


def page_of(quality: TaskQuality) -> str:
    return render_training(training_of(quality, name="pumps", teacher="0123"))


def training_of(quality: TaskQuality, **more: Any) -> Training:
    return Training(
        version=2,
        licence=None,
        quantization="Q8_0",
        parameters=155_072,
        file_bytes=182_560,
        held_out="the newest 20 rows",
        recipe={"width": 64},
        tasks=(quality,),
        **more,
    )


def test_an_object_is_learnt_in_the_order_of_its_schema(tmp_path: Path) -> None:
    schema = """
[tasks.report]
kind = "extract"
[tasks.report.schema]
type = "object"
required = ["stop", "place"]
[tasks.report.schema.properties]
stop = { type = "boolean" }
place = { type = "object", properties = { hall = { type = "integer" }, row = { type = "integer" } } }
"""
    answer = {"place": {"row": 2, "hall": 1}, "stop": True}
    text = "".join(json.dumps({"input": f"a {at}", "answer": answer}) + "\n" for at in range(50))
    rows = read(tmp_path, text, tasks=schema)
    assert rows[0].answer_text == '{"stop":true,"place":{"hall":1,"row":2}}'
    with pytest.raises(ConvertError, match="'place' is a required property"):
        read(tmp_path, text.replace('"place"', '"where"'), tasks=schema)


def test_a_task_without_rows_to_judge_is_refused(tmp_path: Path) -> None:
    more = "".join(json.dumps({"task": "report", "input": "a", "answer": {"stop": True}}) + "\n" for _ in range(3))
    rows = read(tmp_path, lines(60, task=lambda _: "sound") + more, tasks=TASKS + REPORT)
    with pytest.raises(ConvertError, match="task report: has too few rows"):
        folds_of(rows, 0)


def test_it_says_which_packages_it_needs(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = ("torch", "transformers", "tokenizers", "sklearn")
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in lacking else importlib.util.find_spec(name))
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    (tmp_path / "rows.jsonl").write_text(lines(60), "utf-8")
    files = ("--tasks", tmp_path / "config.toml", "--labelled", tmp_path / "rows.jsonl", "--out", tmp_path / "bundle")
    done = cli("train", *files)
    told = "torch, transformers, tokenizers, sklearn): pip install '.[train]' in a copy of the repository"
    assert (done.returncode, told in done.stderr) == (1, True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("steps", "is_warned"), [("300", True), ("1600", False)])
def test_far_fewer_steps_are_warned_of_before_the_training(
    steps: str,
    is_warned: bool,  # noqa: FBT001
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _name: True)
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    (tmp_path / "rows.jsonl").write_text(lines(60), "utf-8")
    files = ("--tasks", tmp_path / "config.toml", "--labelled", tmp_path / "rows.jsonl", "--out", tmp_path / "bundle")
    done = cli("train", *files, "--steps", steps, "--sign", tmp_path / "no.key")
    told = "warning: --steps 300 is far below 1,600: the model may be right less often"
    assert (done.returncode == 0, told in done.stderr) == (False, is_warned)


@pytest.mark.parametrize("minutes", ["0", "-1", "soon", "1e3"])
def test_minutes_are_a_number(minutes: str, cli: Cli) -> None:
    done = cli("train", "--tasks", "a", "--labelled", "b", "--out", "c", "--minutes", minutes)
    assert (done.returncode, "must be a number of minutes, more than 0" in done.stderr) == (2, True)
