"""`edge-agent rows`: from what a board keeps to what a training reads."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from convert.evaluate.requests import read_tasks
from convert.learning.training_rows import read_training_rows
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.commands.rows import rows_of
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.helpers.processes import EdgeAgent
from tests.helpers.support import ECHO_CONFIG

PUMP = ClassifyTask(kind="classify", labels=("normal", "worn"))

AT = 1_800_000_000.0
CONFIG = (
    ECHO_CONFIG
    + """[feedback]
enabled = true
keep_inputs = true
[tasks.pump]
kind = "classify"
labels = ["normal", "worn"]
[tasks.note]
kind = "extract"
schema = { type = "object" }
"""
)


def answer(number: int, label: str | None = "worn", **more: Any) -> KeptAnswer:
    fields = {"is_marked": True, "input": b'{"hz":%d}' % number, "output": "normal", "wall_s": AT + number, **more}
    return KeptAnswer(
        number=number, id=str(number), reply_topic="r", scores={"normal": 0.8, "worn": 0.2},
        tokens=9, is_audit=False, label=label, **fields,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """The store of an agent that runs."""
    store = Store(folder / "state" / FILE, lambda _: None)
    store.start()
    yield store
    store.stop(5.0)
    store.close()


def keep(store: Store, *answers: KeptAnswer, task: str = "pump", basis: str = "b") -> None:
    for one in answers:
        AnswerTable(store).keep(task, basis, one)
    store.commit()


@pytest.fixture
def run(edge_agent: EdgeAgent) -> EdgeAgent:
    return partial(edge_agent, "rows", "pump", "--config", "config.toml")


def test_rows_say_whose_reading_it_was(folder: Path, store: Store, run: EdgeAgent) -> None:
    keep(store, answer(1, machine="pump-7"), answer(2))
    assert run("--json").returncode == 0
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [row.get("machine") for row in rows] == ["pump-7", None]
    assert all("machine" not in row["input"] for row in rows)


def test_a_training_reads_what_a_running_board_keeps(folder: Path, store: Store) -> None:
    keep(store, *(answer(number, "worn" if number % 3 else "normal") for number in range(60)))
    keep(store, answer(60), basis="of another model")
    keep(store, answer(62, input=None), answer(61), task="pump/student")
    before = sorted(path.name for path in (folder / "state").iterdir())
    # In a process of its own, because the agent's has the database locked.
    command = [sys.executable, "-m", "edge_agent", "rows", "pump", "--config", "config.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "rows.jsonl: 62 rows: normal 20, worn 42\n"), done.stderr
    assert sorted(path.name for path in (folder / "state").iterdir()) == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "rows.jsonl", "state"]
    assert (folder / "rows.jsonl").stat().st_mode & 0o777 == 0o600
    first, *_ = (folder / "rows.jsonl").read_text("utf-8").splitlines()
    assert first == '{"task":"pump","id":0,"ts":"2027-01-15T08:00:00.000Z","input":{"hz":0},"answer":"normal"}'

    rows, _ = read_training_rows([folder / "rows.jsonl"], read_tasks(folder / "config.toml"))
    assert [row.time for row in rows] == [AT + number for number in range(62)]
    assert [row.values for row in rows] == [{"hz": number} for number in range(62)]
    assert rows[1].answer == "worn"


def test_what_makes_no_row_is_counted(store: Store, run: EdgeAgent) -> None:
    keep(
        store,
        answer(1, None, is_marked=False),
        answer(2, None),
        answer(3, "broken"),
        answer(4, input=None),
        answer(5, input=b'{"a'),
        answer(6, input=b'{"hz":8}'),
        answer(7, "normal", input=b'{"hz":8}'),
        answer(8),
    )
    done = run("--json", "--out", "out.jsonl")
    assert done.document == {
        "task": "pump",
        "rows": 1,
        "labels": {"normal": 0, "worn": 1},
        "left_out": {
            "later": 0, "no_feedback": 1, "no_label": 1, "other_label": 1, "no_input": 2, "repeated": 1,
            "contradicted": 1,
        },
    }  # fmt: skip
    assert {"left out 1: no feedback", "left out 2: no input kept"} < {*done.stderr.splitlines()}
    assert len(done.stderr.splitlines()) == 6


def test_the_newest_answers_can_be_left_for_the_next_model_to_be_judged_by(
    folder: Path, store: Store, run: EdgeAgent
) -> None:
    keep(store, answer(1), answer(2), answer(3, "normal", input=b'{"hz":1}'))
    done = run("--until", "2027-01-15T08:00:02Z", "--json")
    assert (done.document["rows"], done.document["left_out"]["later"]) == (2, 1)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]
    # A later answer to an input of an earlier one does not count either.
    assert [(row["input"]["hz"], row["answer"]) for row in rows] == [(1, "worn"), (2, "worn")]
    assert run("--recorded", "--until", "2027-01-15").returncode == 64


def test_the_newest_answer_to_an_input_counts() -> None:
    kept, left_out = rows_of(
        "pump", [answer(1, input=b'{"a":1,"b":2}'), answer(2, "normal", input=b'{"b":2,"a":1}')], PUMP
    )
    assert [(row["input"], row["answer"]) for row in kept] == [({"b": 2, "a": 1}, "normal")]
    assert left_out == {"contradicted": 1}


def test_a_label_is_written_as_the_task_has_it_now() -> None:
    task = ClassifyTask(kind="classify", labels=("us\u00e9", "new"))
    (row,) = rows_of("pump", [answer(1, "us\u0065\u0301", input=b'"hums"')], task)[0]
    assert (row["input"], row["answer"]) == ("hums", "us\u00e9")


def test_without_a_clock_a_row_has_no_time() -> None:
    kept, _ = rows_of("pump", [answer(1, wall_s=5.0), answer(2)], PUMP)
    assert [row.keys() for row in kept] == [{"task", "id", "input", "answer"}, {"task", "id", "ts", "input", "answer"}]


def test_a_file_is_replaced_only_with_force(folder: Path, store: Store, run: EdgeAgent) -> None:
    keep(store, answer(1))
    (folder / "rows.jsonl").write_text("mine", "utf-8")
    (folder / "rows.jsonl").chmod(0o644)
    done = run()
    assert (done.returncode, "rows.jsonl exists; --force replaces it" in done.stderr) == (1, True)
    assert (folder / "rows.jsonl").read_text("utf-8") == "mine"
    assert run("--force").returncode == 0
    assert (folder / "rows.jsonl").stat().st_mode & 0o777 == 0o600
    done = run("--out", "nosuch/rows.jsonl")
    assert (done.returncode, "nosuch/rows.jsonl: cannot be written: No such file" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("enabled = true", "enabled = false"), "feedback.enabled is false: the board keeps no answers"),
        (("keep_inputs = true", ""), "feedback.keep_inputs is false: no inputs are kept"),
        (("[tasks.pump]", "[tasks.pumps]"), 'should be a task that takes feedback: pumps (got "pump")'),
        (("[tasks.note]", '[queue]\njournal = "memory"\n[tasks.note]'), 'queue.journal is "memory"'),
        (('"state"', '"elsewhere"'), "there is no database yet"),
        (("", ""), "no kept answer of task pump has feedback, a right label and its input"),
    ],
)
def test_where_there_is_no_row_the_reason_is_said(
    folder: Path, store: Store, run: EdgeAgent, change: tuple[str, str], said: str
) -> None:
    keep(store, answer(1, input=None))
    (folder / "config.toml").write_text(CONFIG.replace(*change), "utf-8")
    done = run()
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert not (folder / "rows.jsonl").exists()


def test_a_task_or_database_of_another_kind_is_refused(folder: Path, edge_agent: EdgeAgent, run: EdgeAgent) -> None:
    done = edge_agent("rows", "note", "--config", "config.toml")
    assert (done.returncode, '(got "note", of the kind extract)' in done.stderr) == (1, True)
    (folder / "state").mkdir()
    (folder / "state" / FILE).write_bytes(b"x" * 5000)
    done = run()
    assert (done.returncode, "cannot be read: file is not a database" in done.stderr) == (1, True)
