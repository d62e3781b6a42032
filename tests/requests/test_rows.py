"""Files of rows in JSON lines and CSV, as `tune`, `train` and `evaluate` read them, with the line of each fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.labelled import RowsError
from edge_agent.requests.rows import TaskRow, read_rows
from edge_agent.requests.task_tables import load_task_configs
from edge_agent.requests.tasks import Task, with_built_in

STATE = """
[tasks.state]
kind = "classify"
labels = ["calm", "défaut"]
template = "{{ input.db }} dB"
"""
REPORT = """
[tasks.report]
kind = "extract"
[tasks.report.schema]
type = "object"
required = ["fault", "stop"]
additionalProperties = false
[tasks.report.schema.properties]
fault = { enum = ["none", "bearing"] }
stop = { type = "boolean" }
place = { type = "object", properties = { hall = { type = "integer" } } }
"""
GOOD = {"task": "state", "input": {"db": 1}, "answer": "calm"}


def tasks(folder: Path, text: str = STATE + REPORT) -> dict[str, Task]:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    return with_built_in(load_task_configs(path))


def read(folder: Path, name: str, text: str, *, definitions: str = STATE, is_labelled: bool = True) -> list[TaskRow]:
    (folder / name).write_text(text, "utf-8")
    return read_rows(folder / name, tasks(folder, definitions), is_labelled=is_labelled)


def lines(*values: object) -> str:
    return "".join(f"{one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)}\n" for one in values)


def found(rows: list[TaskRow]) -> list[tuple[Any, Any]]:
    return [(row.input, row.answer) for row in rows]


def test_rows_are_json_lines_or_csv(tmp_path: Path) -> None:
    rows = [({"db": 3, "ok": True, "note": "on, now"}, "défaut"), ({"db": -1.5, "ok": "no"}, "calm")]
    as_json = lines(*({"input": value, "answer": answer, "shift": 3} for value, answer in rows))
    assert found(read(tmp_path, "a.jsonl", f"\ufeff{as_json}\n\n")) == rows
    as_csv = 'db,ok,label,note\n3,true,de\u0301faut,"on, now"\n\n-1.5,no,calm,\n'
    assert found(read(tmp_path, "a.CSV", as_csv)) == rows


def test_columns_of_csv_may_name_the_input_the_task_and_the_time(tmp_path: Path) -> None:
    [row] = read(tmp_path, "a.csv", "id,task,ts,input,answer\n1,generate,7,hum,\n", is_labelled=False)
    assert (row.task.name, row.input, row.fields["ts"]) == ("generate", "hum", 7)
    numbered = STATE.replace("tasks.state", "tasks.42") + REPORT
    [row] = read(tmp_path, "a.csv", "task,db,answer\n42,1,calm\n", definitions=numbered)
    assert row.task.name == "42"


def test_rows_without_labels_need_no_answer(tmp_path: Path) -> None:
    [row] = read(tmp_path, "a.csv", "db\n7\n", is_labelled=False)
    assert (row.where, row.input) == (f"{tmp_path}/a.csv:2", {"db": 7})


def test_a_row_may_name_the_built_in_task_where_there_is_no_other(tmp_path: Path) -> None:
    [row] = read(tmp_path, "a.csv", "task,input\ngenerate,hum\n", definitions="[tasks.generate]", is_labelled=False)
    assert row.task.name == "generate"


def test_a_number_beyond_the_range_of_a_float_is_compared_too(tmp_path: Path) -> None:
    answer = {"place": {"hall": 10**400}}
    [row] = read(tmp_path, "a.jsonl", lines({"input": "x", "answer": answer}), definitions=REPORT)
    assert row.task.config.is_right(answer, row.answer)
    assert not row.task.config.is_right({"place": {"hall": 1.5}}, row.answer)


def test_separators_within_a_text_end_no_line(tmp_path: Path) -> None:
    [row] = read(tmp_path, "a.jsonl", lines({"input": {"db": "a\u2028b"}, "answer": "calm"}))
    assert row.build_engine_request(1).messages[-1].content == "a\u2028b dB"


def test_the_most_probable_answer_counts_whatever_the_task_samples(tmp_path: Path) -> None:
    sampled = REPORT.replace('"extract"', '"extract"\ntemperature = 0.7')
    [row] = read(tmp_path, "a.jsonl", lines({"input": "x", "answer": {"fault": "none"}}), definitions=sampled)
    assert row.build_engine_request(1).sampling.temperature == 0.0


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"task": "state", "input": {"db": 1}}, "answer: required, but missing"),
        ({"task": "state", "answer": "calm"}, "input: required, but missing"),
        ({**GOOD, "answer": "bad"}, 'answer: should be one of calm, défaut (got "bad")'),
        ({**GOOD, "input": {"speed": 1}}, 'input: has no "db"'),
        ({**GOOD, "input": 5}, "input: should be a string, an object or an array (got 5)"),
        ({**GOOD, "task": "stat"}, 'task: should be one of state, report, generate (got "stat")'),
        ({"input": {"db": 1}, "answer": "calm"}, "task: required, because the configuration has several: state"),
        ({**GOOD, "task": "report", "answer": "none"}, "answer: should be an object with the fields that count"),
        ({**GOOD, "task": "report", "answer": {"fault": "nome"}}, "answer.fault: 'nome' is not one of"),
        ({**GOOD, "task": "report", "answer": {"place": {"hall": "A"}}}, "answer.place.hall: 'A' is not of type"),
        ({**GOOD, "task": "report", "answer": {"falt": "none"}}, "'falt' was unexpected"),
        ({**GOOD, "task": "generate"}, 'task: "generate" is of the kind generate, whose answers are not judged; allow'),
        ([1], "should be an object (got [1])"),
        ("{", "should be a line of JSON: "),
        ('{"task": "say", "task": "say"}', 'the key "task" occurs twice'),
    ],
)
def test_a_fault_of_a_line_names_it(tmp_path: Path, line: object, fault: str) -> None:
    with pytest.raises(RowsError) as caught:
        read(tmp_path, "a.jsonl", lines(GOOD, "", line), definitions=STATE + REPORT)
    assert caught.value.faults[0].startswith(f"{tmp_path}/a.jsonl:3: ")
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("db,db\n", ":1: should be a header of distinct names separated by commas"),
        ("", ":1: should be a header"),
        (
            "ts;db;answer\n02.11.2026;1,5;calm\n",
            ":1: should be separated by commas, and decimals have a point; here, semi",
        ),
        ("db\tanswer\n1,5\tcalm\n", ":1: should be separated by commas, and decimals have a point; here, tabs"),
        ("db,speed\n1,2\n", ":1: should have a column answer or label, but not both"),
        ("db,answer,label\n1,calm,calm\n", ":1: should have a column answer or label, but not both"),
        ("db,answer\n1\n", ":2: should have 2 cells"),
        ('db,answer\n"1,calm\n', ":2: is not CSV: "),
        ("db,answer\n1,calm\n2,soft\n", ":3: answer: should be one of calm, défaut"),
        ("db,answer\n", ": has no rows"),
    ],
)
def test_a_fault_of_csv_names_its_line(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(RowsError) as caught:
        read(tmp_path, "a.csv", text)
    assert str(caught.value).startswith(f"{tmp_path}/a.csv{fault}")


def test_all_faults_of_rows_are_told_up_to_a_number(tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        read(tmp_path, "a.jsonl", lines(*({**GOOD, "answer": f"bad {number}"} for number in range(23))))
    assert len(caught.value.faults) == 21
    assert caught.value.faults[-1] == f"{tmp_path}/a.jsonl: 3 more faults"


def test_equal_faults_are_told_once_with_the_number_of_rows(tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        read(tmp_path, "a.csv", "db,answer\n1,Calm\n2,\n3,calm\n4,Calm\n5,\n6,\n")
    rule = "answer: should be one of calm, défaut"
    assert caught.value.faults == [
        f'{tmp_path}/a.csv:2: {rule} (got "Calm"), in 2 rows',
        f'{tmp_path}/a.csv:3: {rule} (got ""), in 3 rows',
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a\.jsonl: cannot be read: No such file"):
        read_rows(tmp_path / "a.jsonl", tasks(tmp_path), is_labelled=True)
    (tmp_path / "a.jsonl").write_bytes(b"\xff")
    with pytest.raises(RowsError, match=r"a\.jsonl: is not UTF-8: .* at byte 0; save it as UTF-8"):
        read_rows(tmp_path / "a.jsonl", tasks(tmp_path), is_labelled=True)
