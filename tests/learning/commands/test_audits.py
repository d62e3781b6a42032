"""`edge-agent audits`: what waits for somebody's judgement."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.commands.audits import _table
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.helpers.processes import EdgeAgent
from tests.learning.commands.test_rows import AT, CONFIG, answer


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of an agent that runs here."""
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "state" / FILE, lambda _: None)
    store.start()
    yield store
    store.stop(5.0)
    store.close()


def asked(number: int, text: str = "null") -> KeptAnswer:
    fields = {
        field: getattr(answer(number), field) for field in ("number", "reply_topic", "wall_s", "scores", "tokens")
    }
    return KeptAnswer(**fields, id=text, output="normal", is_audit=True, machine="pump-7", input=b'{"hz":50}')


def test_open_audits_are_listed_with_their_inputs_and_without_the_answers(store: Store, edge_agent: EdgeAgent) -> None:
    table = AnswerTable(store)
    for one in (asked(1, '"reading-1"'), asked(2, "17"), answer(3), answer(4, is_marked=False)):
        table.keep("pump", "b", one)
    store.commit()
    listed = edge_agent("audits", "pump", "--config", "config.toml")
    assert listed.returncode == 0
    first, head, *rows = listed.stdout.splitlines()
    assert (first, head.split()) == ("open audits of pump: 2", ["ID", "TIME", "AGE", "MACHINE", "INPUT"])
    assert [row.split()[0] for row in rows[:2]] == ["reading-1", "17"]
    assert '{"hz": 50}' in rows[0]
    advice = "edge-agent feedback pump ID ANSWER --by NAME, where ANSWER is one of: normal, worn"
    assert rows[-1].endswith(advice)  # With two labels, `--wrong` would say that the other one is right.
    assert "normal" not in "".join(rows[:2])
    document = json.loads(edge_agent("audits", "pump", "--config", "config.toml", "--json").stdout)
    assert [one["id"] for one in document["open"]] == ["reading-1", 17]
    assert document["open"][0] == {
        "id": "reading-1", "reply_to": "r", "at": document["open"][0]["at"], "machine": "pump-7", "input": {"hz": 50},
    }  # fmt: skip
    assert document["open"][0]["at"].startswith("2027-01-15T08:00:01")
    table.save_in_force("pump", "c")
    store.commit()
    (line,) = edge_agent("audits", "pump", "--config", "config.toml").stdout.splitlines()
    assert line == "open audits of pump: 0; left out 2 that no longer count"
    assert AT == 1_800_000_000.0


def test_that_no_label_is_right_is_offered_from_three_labels_on(store: Store, edge_agent: EdgeAgent) -> None:
    Path("config.toml").write_text(CONFIG.replace('["normal", "worn"]', '["normal", "worn", "dry"]'), "utf-8")
    AnswerTable(store).keep("pump", "b", asked(1, "1"))
    store.commit()
    listed = edge_agent("audits", "pump", "--config", "config.toml").stdout.splitlines()
    assert listed[-1].endswith("where ANSWER is one of: normal, worn, dry; or --wrong if none is right")


def test_unusual_readings_are_counted_by_what_people_said(store: Store, edge_agent: EdgeAgent) -> None:
    Path("config.toml").write_text(CONFIG + '[tasks.watch]\nkind = "unusual"\nusual = ["ok"]\n', "utf-8")
    table = AnswerTable(store)
    labels = ["usual", "OK", "cavitation", "worn", "worn"]
    for number, label in enumerate([*labels, None]):
        one = replace(asked(number + 1, str(number)), output="unusual", label=label, is_marked=label is not None)
        table.keep("watch/unusual", "b", one)
    table.keep("watch/usual", "b", replace(asked(9, "9"), output="usual", label="worn", is_marked=True, is_audit=False))
    store.commit()
    listed = edge_agent("audits", "watch", "--config", "config.toml").stdout.splitlines()
    counts = "unusual readings kept with their inputs: 6, 5 of them answered, 3 of these really unusual"
    assert listed[:2] == ["open audits of watch: 1", counts]
    document = json.loads(edge_agent("audits", "watch", "--config", "config.toml", "--json").stdout)
    assert document["noticed"] == {"kept": 6, "answered": 5, "real": 3}


def test_without_inputs_the_list_says_that_unusual_readings_are_missing(store: Store, edge_agent: EdgeAgent) -> None:
    text = CONFIG.replace("keep_inputs = true", "keep_inputs = false") + '[tasks.watch]\nkind = "unusual"\n'
    Path("config.toml").write_text(text, "utf-8")
    AnswerTable(store).keep("watch/unusual", "b", replace(asked(1, "1"), output="unusual", input=None))
    store.commit()
    listed = edge_agent("audits", "watch", "--config", "config.toml").stdout.splitlines()
    missing = "feedback.keep_inputs is false: no inputs are kept, so unusual readings are missing here; "
    assert listed[0] == "open audits of watch: 0"
    assert listed[-1].startswith(missing)
    assert len(edge_agent("audits", "pump", "--config", "config.toml").stdout.splitlines()) == 1


def test_the_time_of_an_answer_has_its_date_unless_that_is_today() -> None:
    noon = time.mktime((2027, 1, 15, 12, 0, 0, 0, 0, 0))
    times = (noon - 600, noon - 86_400, 0.0)
    rows = _table([replace(asked(1, "7"), wall_s=wall_s) for wall_s in times], noon, math.inf)[1:]
    assert [row.split("pump-7")[0].split()[1:-2] for row in rows] == [["11:50"], ["2027-01-14", "12:00"], ["–"]]


def test_a_long_input_is_shown_whole_and_wrapped_on_a_terminal() -> None:
    value = {f"sensor_{number}": number / 7 for number in range(20)}
    audit = replace(asked(1, '"reading-1"'), input=json.dumps(value).encode())
    assert json.dumps(value) in _table([audit], AT, math.inf)[1]
    for width in (80, 100):
        lines = _table([audit], AT, width)
        assert max(map(len, lines)) <= width
        assert json.loads(" ".join(line[lines[0].index("INPUT") :] for line in lines[1:])) == value


@pytest.mark.usefixtures("store")
def test_a_task_without_feedback_has_no_audits(edge_agent: EdgeAgent) -> None:
    done = edge_agent("audits", "note", "--config", "config.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'should be a task that takes feedback: pump (got "note", of the kind extract)' in done.stderr
    Path("config.toml").write_text(CONFIG + '[tasks.watch]\nkind = "unusual"\n', "utf-8")
    done = edge_agent("audits", "watches", "--config", "config.toml")
    assert 'should be a task that takes feedback: pump, watch (got "watches")' in done.stderr
