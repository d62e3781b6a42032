"""`edge-convert train` from rows without answers: a bundle without a large model, and what it answers."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convert.evaluate.requests import read_tasks
from convert.learning.commands import TRAINING
from convert.learning.table import build_table
from convert.learning.usual_command import classified_rows, print_task
from convert.learning.usual_report import Noticed, UnusualQuality
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.unusual import UnusualTask
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import EngineSettings, Failed, Finished
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import find_canaries
from edge_agent.requests.tasks import Task
from edge_agent.worker.client import WorkerClient, started
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import Cli, convert, run
from tests.convert.learning.test_usual import ordinary, pump, with_standstill
from tests.helpers.bundles import relist

TASKS = """
[tasks.pump]
kind = "unusual"
false_alarms = "1 per 100 readings"
[tasks.sound]
kind = "classify"
labels = ["calm", "loud"]
"""
TASK = Task("pump", UnusualTask(kind="unusual", false_alarms="1 per 100 readings"))
pytestmark = pytest.mark.usefixtures("few_mixtures")


def lines(values: list[dict[str, Any]], **more: Any) -> str:
    return "".join(json.dumps({"input": value, **more}) + "\n" for value in values)


@pytest.fixture(scope="module")
def few_mixtures() -> Iterator[None]:
    """There are two to choose from instead of twelve; test_usual.py has what is learnt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convert.learning.usual._COMPONENTS", (2, 8))
        patch.setattr("convert.learning.usual._SHRINKAGES", (0.1,))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the rows, the tasks, and a bundle that is not to be changed."""
    folder = tmp_path_factory.mktemp("unusual")
    (folder / "config.toml").write_text(TASKS, "utf-8")
    (folder / "week.jsonl").write_text(lines(pump(400)), "utf-8")
    hot = [value | {"temperature": 90.0} for value in pump(5, seed=3)]
    (folder / "found.jsonl").write_text(lines(hot, answer="cooler") + lines(pump(5, 4), answer="normal"), "utf-8")
    assert run(*words(folder, "bundle")) == 0
    return folder


def words(folder: Path, out: str, *more: object) -> tuple[object, ...]:
    rows = ("--unlabelled", folder / "week.jsonl", "--labelled", folder / "found.jsonl")
    return "train", "--tasks", folder / "config.toml", *rows, "--out", folder / out, "--name", "Watch", *more


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[WorkerClient]:
    with started(open_model("default", folder / "bundle").load_command(EngineSettings())) as worker:
        worker.ready()
        yield worker


def ask(worker: WorkerClient, value: dict[str, Any]) -> Any:
    row = json.dumps(value)
    event = worker.ask(TASK.build_engine_request(1, envelope(row)))
    assert isinstance(event, Finished)
    return TASK.output_of(event)


def envelope(text: str) -> Envelope:
    return Envelope(input=text)


def test_the_bundle_opens_and_says_how_often_it_is_wrong(folder: Path, cli: Cli) -> None:
    model = open_model("default", folder / "bundle")
    assert [(student.name, student.tasks) for student in model.students] == [("student-watch", {"pump": ()})]
    assert (model.quantization, model.tokens, model.answerer_of("pump")) == ("NONE", None, "student-watch")
    quality = json.loads((folder / "bundle" / "quality.json").read_bytes())["tasks"][0]
    assert quality["answers"] == {"cooler": {"rows": 5, "unusual": 5, "groups": None}}
    assert (quality["rows"], quality["judged"]["rows"]) == (405, 400)
    assert quality["judged"]["unusual"] / 400 < 0.03
    assert "asked for 1 per 100 readings" in (folder / "bundle" / "quality.html").read_text("utf-8")
    assert cli("verify", folder / "bundle").returncode == 0


def test_the_same_rows_and_seed_give_the_same_bytes_and_it_prints_its_figures(folder: Path, cli: Cli) -> None:
    done = cli(*words(folder, "again"))
    assert "false alarms: " in done.stdout
    assert "cooler: 5 of 5 rows are taken for unusual" in done.stdout
    assert {path.name: path.read_bytes() for path in (folder / "again").iterdir()} == {
        path.name: path.read_bytes() for path in (folder / "bundle").iterdir()
    }


def test_a_worker_answers_without_a_large_model(worker: WorkerClient) -> None:
    assert ask(worker, ordinary())["unusual"] is False
    output = ask(worker, ordinary() | {"current": 28.0})
    assert output["unusual"] is True
    assert output["rarity"] < 0.001
    assert [entry["field"] for entry in output["because"]] == ["current"]


def test_what_it_does_not_answer_is_refused_in_words(worker: WorkerClient) -> None:
    other = Task("sound", TASK.config).build_engine_request(1, envelope(json.dumps(ordinary())))
    assert isinstance(refused := worker.ask(other), Failed)
    assert refused.message == 'the model is trained for the tasks pump (got "sound")'
    classify = Task("pump", ClassifyTask(kind="classify", labels=("calm", "loud")))
    assert isinstance(refused := worker.ask(classify.build_engine_request(1, envelope("{}"))), Failed)
    assert refused.message == "the model is trained for task pump as one of the kind unusual"
    config = TASK.config.model_copy(update={"template": "{{ input | lower }}"})
    assert isinstance(refused := worker.ask(Task("pump", config).build_engine_request(1, envelope("{}"))), Failed)
    assert refused.message.endswith('with another template; tasks.pump.template should be "{{ input }}"')
    assert isinstance(refused := worker.ask(TASK.build_engine_request(1, envelope('{"x":1}'))), Failed)
    assert refused.message.startswith("input: should have one of speed, current, power, temperature, mode, remark")


def test_its_canaries_are_answered_alike(folder: Path, worker: WorkerClient) -> None:
    canaries = find_canaries(folder / "bundle")
    assert canaries is not None
    asked = canaries.requests
    assert len(asked) == 20
    assert [canaries.answers.difference(at, worker.ask(request)) for at, request in enumerate(asked)] == [None] * 20


def test_it_stands_beside_a_large_model_which_is_not_asked(folder: Path, cli: Cli, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(layers=1, hidden=64, feed_forward=96).write(tmp_path / "checkpoint")
    convert(checkpoint, tmp_path / "large", version=3)
    done = cli("extend", tmp_path / "large", "--students", folder / "bundle", "--out", tmp_path / "both")
    assert "student-watch: pump" in done.stdout
    with started(open_model("default", tmp_path / "both").load_command(EngineSettings())) as worker:
        worker.ready()
        assert ask(worker, ordinary() | {"current": 28.0})["unusual"] is True


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (b"{", "is not JSON|Expecting|JSON"),
        (b'{"schema":1,"kind":"unusual","tasks":{}}', "tasks"),
        (b" " * 4_000_001, "at most 4000000 bytes"),
    ],
)
def test_a_file_that_the_converter_did_not_write_does_not_open(
    folder: Path, tmp_path: Path, damage: bytes, fault: str
) -> None:
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / "student-watch.json").write_bytes(damage)
    with pytest.raises(ModelError, match=r"student-watch\.json: should (be|have)"):
        open_model("default", tmp_path / "bundle")
    relist(tmp_path / "bundle")
    with pytest.raises(ModelError, match=rf"student-watch\.json: .*({fault})"):
        open_model("default", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("rows", "tasks", "fault"),
    [
        (lines(pump(40)), TASKS, "task pump: should have at least 50 usual rows (got 40)"),
        (lines(pump(60), answer="hot"), TASKS, "rows without labels have none"),
        (lines([{f"f{at}": 1 for at in range(401)}] * 60), TASKS, "should have at most 400 fields (got 401)"),
        (lines([{"speed": 1e308}] * 60), TASKS, "numbers should be from -1e+100 to 1e+100 (got 1e+308)"),
        (lines([{"text": f"{at} {'x' * 50_000}"} for at in range(100)] * 2), TASKS, "at most 4,000,000 bytes (got 5"),
        (
            lines(pump(60)),
            TASKS.replace('"unusual"', '"generate"').replace("false_alarms", "system"),
            "has no such task",
        ),
    ],
)
def test_rows_and_tasks_that_cannot_be_used_are_refused(
    rows: str, tasks: str, fault: str, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "config.toml").write_text(tasks, "utf-8")
    (tmp_path / "rows.jsonl").write_text(rows, "utf-8")
    done = cli(
        "train", "--tasks", tmp_path / "config.toml", "--unlabelled", tmp_path / "rows.jsonl", "--out", tmp_path / "out"
    )
    assert (done.returncode, fault in done.stderr, (tmp_path / "out").exists()) == (1, True, False)


def test_readings_that_come_again_are_usual_whatever_they_are_called(folder: Path, tmp_path: Path, cli: Cli) -> None:
    """Of few values, each reading is in both what is learnt and what is held out."""
    (tmp_path / "rows.jsonl").write_text(lines([{"a": at * at % 7, "b": at * 5 % 3} for at in range(210)]), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "rows.jsonl", "--check")
    done = cli(*train)
    assert (done.returncode, done.stderr) == (0, "")
    assert "false alarms: 0.0 % of 210 usual rows" in done.stdout
    assert "more than asked for" not in done.stdout
    for count, is_warned in ((4, False), (6, True)):
        leak = [lines([{"a": 1, "b": 0}] * part, answer="leak", group=f"g{part}") for part in (2, count - 2)]
        (tmp_path / "found.jsonl").write_text("".join(leak), "utf-8")
        done = cli(*train, "--labelled", tmp_path / "found.jsonl")
        groups = "1 group" if count == 4 else "2 groups"
        assert f"leak: 0 of {count} rows are taken for unusual ({groups})\n" in done.stdout
        assert ("few rows of a fault are taken for unusual, leak (0 of 6): if the machines" in done.stderr) is is_warned
        assert ("if the plant has changed since these were named, leave out" in done.stderr) is is_warned


def test_rare_rows_of_a_board_that_are_far_apart_in_time_are_no_run(folder: Path, tmp_path: Path, cli: Cli) -> None:
    week = [{"ts": at, "machine": "p1", **row} for at, row in enumerate(pump(400))]
    (tmp_path / "week.jsonl").write_text(lines(week), "utf-8")
    found = [
        {"ts": 1000 * at, "machine": "p1", **row, "current": row["current"] + 4} for at, row in enumerate(pump(9), 1)
    ]
    (tmp_path / "found.jsonl").write_text(lines(found, answer="usual"), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "week.jsonl", "--check")
    rarest = cli(*train, "--labelled", tmp_path / "found.jsonl").stdout.partition("rarest rows")[2]
    assert rarest.count("found.jsonl") == 5
    assert "rarest of" not in rarest


def test_a_fault_that_nobody_noticed_is_shown_with_its_rows(folder: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [{"ts": at, "machine": "p1", **row} for at, row in enumerate(pump(400))]
    for at in range(200, 210):
        rows[at] |= {"current": rows[at]["current"] + 4, "group": "shift 2"}
    (tmp_path / "week.jsonl").write_text(lines(rows), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "week.jsonl")
    done = cli(*train, "--out", tmp_path / "out")
    first = done.stdout.partition("rarest rows")[2].splitlines()[1]
    assert int(first.partition("week.jsonl:")[2].partition(",")[0]) in range(201, 211), first
    assert re.search(r", p1, rarest of 1\d rows from 201 to 21\d: current", first), first
    # Once they are named, they are not learnt as usual any more, even if their keys and numbers are written otherwise.
    leaks = [{**dict(reversed(row.items())), "current": str(row["current"]), "note": None} for row in rows[200:210]]
    (tmp_path / "found.jsonl").write_text(lines([*leaks, pump(1, seed=9)[0]], answer="leak"), "utf-8")
    train_named = (*train, "--labelled", tmp_path / "found.jsonl", "--check")
    assert json.loads(cli(*train_named, "--json").stdout)["faults_in_unlabelled"] == 10
    named = cli(*train_named).stdout
    assert named.startswith("10 of 11 named rows of faults are also in --unlabelled, and are taken out there\n")
    assert "learnt from 390 usual rows" in named
    assert "leak: 10 of 11 rows are taken for unusual" in named
    # Without a time, equal values may be those of another reading.
    (tmp_path / "timeless.jsonl").write_text(lines([leak | {"ts": None} for leak in leaks], answer="leak"), "utf-8")
    told = cli(*train, "--labelled", tmp_path / "timeless.jsonl", "--check").stderr
    assert "10 named rows of faults without a time have the values of rows in --unlabelled, which are learnt" in told
    assert "simulated faults" not in done.stderr
    assert "week.jsonl:20" in (tmp_path / "out" / "quality.html").read_text("utf-8")
    (tmp_path / "week.jsonl").write_text(lines(rows[:200] + rows[210:]), "utf-8")
    done = cli(*train, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    head, *choices = done.stdout.partition("jumps noticed  ")[2].splitlines()[:4]
    assert head == "drifts noticed"
    assert [line.split()[2] for line in choices] == ["10000", "1000", "100"]
    jumps = [float(line.replace("readings", "").split()[5]) for line in choices]
    assert sorted(jumps) == jumps
    assert jumps[-1] > 90


def test_a_warning_of_simulated_faults_ends_where_half_of_them_are_noticed() -> None:
    def warnings(noticed: int) -> tuple[str, ...]:
        return UnusualQuality(
            name="pump", rows=400, held_out="all rows", false_alarms="1 per 100 readings", asked=0.01,
            judged=Noticed(rows=400, unusual=4), alarms_in_states=0, alarms_of_codes=0, unusual_codes=0,
            independent=400.0, answers={}, fields=(), jumps={"speed": Noticed(rows=200, unusual=noticed)}, choices=(),
            rarest=(), doubts=(),
        ).warnings  # fmt: skip

    assert warnings(100) == ()
    [warning] = warnings(99)
    told = "only 99 of 200 simulated faults are taken for unusual, fewer than half: look at the rarest rows"
    assert warning == f"{told}, and remove those of a fault, or accept more false alarms"


def test_rows_like_one_that_people_took_for_usual_stay(folder: Path, tmp_path: Path, cli: Cli) -> None:
    standstill = dict.fromkeys(pump(1)[0], 0)
    rows = [{"ts": at, **row} for at, row in enumerate([*pump(380), *20 * [standstill]])]
    (tmp_path / "week.jsonl").write_text(lines(rows), "utf-8")
    (tmp_path / "found.jsonl").write_text(lines(rows[-1:], answer="usual"), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "week.jsonl", "--check")
    assert "learnt from 401 usual rows" in cli(*train, "--labelled", tmp_path / "found.jsonl").stdout


def test_rows_that_people_named_are_learnt_but_say_nothing_of_how_frequent_false_alarms_are(
    folder: Path, tmp_path: Path, cli: Cli
) -> None:
    """They are a selection, because only readings that were rare enough were noticed."""
    week = [{"ts": at, **row} for at, row in enumerate(pump(400))]
    for row in week[360::4]:
        row["current"] += 1.0
    rare = [{"ts": 400 + at, **row, "current": row["current"] + 4} for at, row in enumerate(pump(40, 3))]
    faults = [row | {"temperature": 71.0} for row in pump(40, seed=4)]

    def quality(named: list[dict[str, Any]], unlabelled: list[dict[str, Any]]) -> Any:
        (tmp_path / "week.jsonl").write_text(lines(unlabelled), "utf-8")
        (tmp_path / "found.jsonl").write_text(lines(named, answer="usual") + lines(faults, answer="hot"), "utf-8")
        files = ("--labelled", tmp_path / "found.jsonl", "--unlabelled", tmp_path / "week.jsonl")
        done = cli("train", "--tasks", folder / "config.toml", *files, "--check", "--json")
        [task] = json.loads(done.stdout)["tasks"]
        return task

    alone, named = quality([], week), quality(rare, week)
    assert (alone["held_out"], named["held_out"]) == ("the newest 80 rows", "the newest 80 unlabelled rows")
    assert (named["rows"], named["judged"]["rows"], named["independent"]) == (440, 80, 80.0)
    assert named["judged"]["unusual"] <= alone["judged"]["unusual"]
    assert named["answers"]["hot"]["unusual"] >= alone["answers"]["hot"]["unusual"] > 20
    # A row that is held out is not learnt as a named one either.
    again = quality(week[360::4], week)
    assert (again["judged"], again["rows"]) == (alone["judged"], 410)
    assert alone["judged"]["unusual"] > 0
    # Too few rows would not say it.
    assert quality(rare, week[:99])["held_out"] == "the newest 27 rows"


def test_rows_too_few_for_the_accepted_false_alarms_are_named_as_the_cause(
    folder: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "week.jsonl").write_text(lines(pump(60)), "utf-8")
    done = cli("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "week.jsonl", "--check")
    assert "60 usual rows cannot tell which readings are among the rarest 1 %" in done.stderr
    assert "look at the rarest rows" not in done.stderr


def test_false_alarms_of_a_standstill_that_was_only_once_are_said_to_be_that(
    folder: Path, tmp_path: Path, cli: Cli
) -> None:
    rows = with_standstill(pump(400), 60)
    groups = [{"group": "weekend" if row["mode"] == "off" else f"day {at // 50}", **row} for at, row in enumerate(rows)]
    (tmp_path / "week.jsonl").write_text(lines(groups), "utf-8")
    done = cli("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "week.jsonl", "--check")
    assert "false alarms are of a state, such as off, that the machine had only once or twice" in done.stderr
    assert "far more frequent" not in done.stderr


def test_false_alarms_of_error_codes_are_said_to_be_that(tmp_path: Path, cli: Cli) -> None:
    """A model that has not seen the group with the codes cannot know them; the written one does."""
    rows = [{"group": f"day {at // 40}", **row} for at, row in enumerate(pump(400))]
    for at in range(200, 240):
        rows[at] |= {"speed": -99}
    (tmp_path / "week.jsonl").write_text(lines(rows), "utf-8")
    weekly = TASKS.replace('"1 per 100 readings"', '"1 per week"\nreading_interval_s = 300')
    (tmp_path / "config.toml").write_text(weekly, "utf-8")
    done = cli("train", "--tasks", tmp_path / "config.toml", "--unlabelled", tmp_path / "week.jsonl", "--check")
    assert "false alarms are of rows with error codes: leave them in if the sensors may send these" in done.stderr
    assert "takes 0 of them for unusual" in done.stderr
    assert "far more frequent" not in done.stderr
    assert "of these false alarms, 40 of 40 have error codes" in done.stdout
    assert "more than asked for: the judged models lack what was held out" in done.stdout
    assert [rate in done.stdout for rate in ("1 per month ", "1 per week ", "1 per day ")] == [True] * 3


def test_doubtful_values_are_named_also_where_no_field_is_a_number(folder: Path, tmp_path: Path, cli: Cli) -> None:
    values = [{"temperature": f"{60 + at % 9},{at % 10}"} for at in range(100)]
    (tmp_path / "rows.jsonl").write_text(lines(values), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "rows.jsonl", "--check")
    done = cli(*train)
    assert (done.returncode, '100 values such as "60,0" have a decimal comma' in done.stderr) == (0, True)
    assert "decimal commas" not in done.stderr
    tags = [{"ts": 100 + at // 5, "input": {"value": at % 5 * 10 + at % 7}} for at in range(400)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tags), "utf-8")
    assert "most rows have the time of another row: if each is a single value" in cli(*train).stderr
    codes = [row | ({} if at % 100 else {"speed": -99, "current": "Bad Input"}) for at, row in enumerate(pump(400))]
    codes[1] |= {"speed": "2,38"}
    codes = [row | {"hours": 7000 + at // 4} for at, row in enumerate(codes)]
    (tmp_path / "rows.jsonl").write_text(lines(codes), "utf-8")
    done = cli(*train)
    assert '1 row with decimal commas in 1 field, such as "2,38" in speed' in done.stderr
    assert "the field speed: 4 rows have -99: an error code?" in done.stderr
    assert "hours only rises from row to row: if it is a counter or a clock" in done.stderr
    assert 'the field current: 4 rows have "Bad Input": an error code?' in done.stderr
    assert '  codes, or a state such as off: speed -99 in 4 rows, current "Bad Input" in 4 rows\n' in done.stdout


def test_usual_values_leave_out_codes_also_those_of_a_state(folder: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [
        {"moisture": -50 if row["mode"] == "off" else 3 + at % 40 / 10, **row}
        for at, row in enumerate(with_standstill(pump(400), 60))
    ]
    (tmp_path / "rows.jsonl").write_text(lines(rows), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "rows.jsonl")
    done = cli(*train, "--out", tmp_path / "out")
    assert "moisture -50 in 60 rows" in done.stdout
    assert "-50: an error code" not in done.stderr
    assert "3 to 6.9</td><td>-50 in 60</td>" in (tmp_path / "out" / "quality.html").read_text("utf-8")
    fields = json.loads((tmp_path / "out" / "quality.json").read_bytes())["tasks"][0]["fields"]
    [field] = [field for field in fields if field["name"] == "moisture"]
    assert (field["low"], field["high"], field["codes"]) == (3.0, 6.9, {"-50": 60})


def test_a_switch_is_read_whether_it_moved_or_not(folder: Path, tmp_path: Path, cli: Cli) -> None:
    """Signals make 0 and 1 of it, and the mean of one that was on all the time is 1.0."""
    on = {"last": 1.0, "mean_10m": 1.0}
    rows = [row | {"heater": at // 50 % 2, "fan": on} for at, row in enumerate(pump(100))]
    (tmp_path / "rows.jsonl").write_text(lines(rows), "utf-8")
    train = ("train", "--tasks", folder / "config.toml", "--unlabelled", tmp_path / "rows.jsonl")
    done = cli(*train, "--out", tmp_path / "out")
    assert done.returncode == 0
    constant = "always the same, so any other value will be unusual: fan.last 1.0, fan.mean_10m 1.0\n"
    assert constant in done.stderr
    assert "heater" not in done.stderr
    with started(open_model("default", tmp_path / "out").load_command(EngineSettings())) as worker:
        worker.ready()
        assert not ask(worker, ordinary() | {"heater": 1, "fan": on})["unusual"]
        output = ask(worker, ordinary() | {"heater": 1, "fan": on | {"last": 0.0}})
        assert [entry["field"] for entry in output["because"]] == ["fan.last"]
    done = cli(*train, "--check")
    assert (done.returncode, constant in done.stderr) == (0, True)


def test_what_unusual_rows_are_called_makes_a_task_that_tells_them_apart(
    folder: Path, tmp_path: Path, cli: Cli
) -> None:
    hot = lines([value | {"temperature": 90.0} for value in pump(30, seed=5)], answer="cooler")
    (tmp_path / "found.jsonl").write_text(hot + lines(pump(3, 6), answer=" belt") + lines(pump(40, 7), answer="Normal"))
    (tmp_path / "config.toml").write_text(TASKS.partition("[tasks.sound]")[0], "utf-8")
    rows = ("train", "--tasks", tmp_path / "config.toml", "--labelled", tmp_path / "found.jsonl", "--check")
    assert (
        "enough rows to tell apart: cooler; --classify NAME makes a task that names them"
        in cli(*rows, "--unlabelled", folder / "week.jsonl").stdout
    )
    done = cli(*rows, "--classify", "pump-state")
    assert "pump-state: 70 rows: cooler 30, usual 40" in done.stdout
    assert "each has fewer than 20 rows, which it does not learn: belt 3" in done.stderr
    assert "no label is usual" not in done.stderr
    assert cli(*rows, "--classify", "pump state").returncode == 2
    # The board runs the new task, too; of a reading that has rows of both, that of the new one counts.
    (tmp_path / "state.jsonl").write_text(
        lines(pump(3, 6)[:2], answer="cooler", task="pump-state") + lines(pump(25, 8), answer="belt", task="pump-state")
    )
    both = (*rows, "--labelled", tmp_path / "state.jsonl")
    week = ("--unlabelled", *3 * [folder / "week.jsonl"])
    done = cli(*both, *week, "--classify", "pump-state")
    told = (
        "keeps 178 of 1,240 usual rows, drawn at random, with some of each error code and gap: beside all of them, the "
        "58 other rows would hardly be learnt\n"
    )
    assert told in done.stdout
    assert ": belt 26, cooler 32, usual 178" in done.stdout
    assert "more than" not in done.stderr
    assert 'task: should be one of pump (got "pump-state")' in cli(*both).stderr
    # This holds even if both answers have the same time. Of one task, the last answer counts.
    named = [
        lines(pump(3, 9), ts=1, task=task, answer=answer)
        for task, answer in (("pump", "belt"), ("pump-state", "cooler"), ("pump", "usual"))
    ]
    (tmp_path / "state.jsonl").write_text("".join(named))
    done = cli(*both, "--classify", "pump-state")
    assert ": cooler 33, usual 40" in done.stdout
    assert "3 rows are left out, because a later row of the same reading has another answer" in done.stderr
    (tmp_path / "state.jsonl").write_text(named[0] + named[2])
    done = cli(*both, "--unlabelled", folder / "week.jsonl")
    assert "pump: learnt from 443 usual rows" in done.stdout
    assert "warning: 3 rows are left out, because a later row" in done.stderr
    (tmp_path / "found.jsonl").write_text("".join(lines(pump(20), answer=f"fault {at}") for at in range(201)))
    refused = cli(*rows, "--classify", "pump-state")
    assert (refused.returncode, "at most 200 labels (got 201" in refused.stderr) == (1, True)
    other = lines([value | {"current": 40.0} for value in pump(30, seed=5)], answer="belt")
    (tmp_path / "found.jsonl").write_text(hot + other)
    assert "no label is usual, so each ordinary reading gets another one" in cli(*rows, "--classify", "fault").stderr
    (tmp_path / "found.jsonl").write_text(hot)
    refused = cli(*rows, "--classify", "pump-state")
    assert (refused.returncode, "needs 50 rows, and two answers" in refused.stderr) == (1, True)


def test_few_enough_usual_rows_are_drawn_from_all_of_them(tmp_path: Path) -> None:
    """They include those that people named. The newest row of the task itself says which audits are newer."""
    (tmp_path / "config.toml").write_text(TASKS.partition("[tasks.sound]")[0], "utf-8")
    rows: list[dict[str, Any]] = [{"ts": at, "input": value} for at, value in enumerate(pump(1600))]
    for row in rows[800:]:
        row["answer"] = "usual"
    for row in rows[1500:]:
        row["task"] = "pump-state"
    faults = [{"ts": 80 * at, "input": value, "answer": "belt"} for at, value in enumerate(pump(20, 5))]
    for name, some in (("week", rows[:800]), ("found", [*rows[800:], *faults])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    files = ("--unlabelled", f"{tmp_path}/week.jsonl", "--labelled", f"{tmp_path}/found.jsonl", "--check", "--json")

    def times_of(seed: int) -> list[float | None]:
        words = ("--tasks", f"{tmp_path}/config.toml", *files, "--classify", "pump-state", "--seed", f"{seed}")
        found, _ = classified_rows(given := TRAINING.parse(words), read_tasks(given.tasks))
        assert sum(row.answer == "belt" for row in found) == 20
        return [row.time for row in found if row.answer == "usual"]

    times = times_of(1)
    assert times == sorted(times, key=lambda time: time or 0)
    assert len(times) in (60, 61)
    assert times[-1] == times_of(2)[-1] == 1599
    assert min(sum(low <= (time or 0) < low + 800 for time in times) for low in (0, 800)) > 15
    assert times == times_of(1) != times_of(2)


def test_some_usual_rows_with_each_error_code_and_gap_are_among_those_that_are_drawn(tmp_path: Path) -> None:
    """Without any, the model would refuse readings with them as unlike its rows."""
    (tmp_path / "config.toml").write_text(TASKS.partition("[tasks.sound]")[0], "utf-8")
    rows = pump(1600)
    for at in range(5):
        rows[300 * at] |= {"speed": 6553.5}
        rows[300 * at + 1] |= {"current": "ERR"}
    for at in range(40):
        del rows[40 * at + 2]["temperature"]
    rows[7] |= {"power": -1234.5}  # A glitch, which no other row has.
    (tmp_path / "week.jsonl").write_text(lines(rows), "utf-8")
    belt = [row | {"current": row["current"] + 4} for row in pump(70, seed=5)]
    (tmp_path / "found.jsonl").write_text(lines(belt, answer="belt"), "utf-8")
    files = ("--unlabelled", f"{tmp_path}/week.jsonl", "--labelled", f"{tmp_path}/found.jsonl", "--check", "--json")

    def kept(seed: int) -> list[dict[str, Any]]:
        words = ("--tasks", f"{tmp_path}/config.toml", *files, "--classify", "pump-state", "--seed", f"{seed}")
        found, _ = classified_rows(given := TRAINING.parse(words), read_tasks(given.tasks))
        table = build_table(found)
        codes = {field.name: field.codes for field in table.fields if field.codes}
        assert codes == {"speed": (6553.5,), "current": ("ERR",)}
        assert "temperature" not in table.tasks["pump-state"].required
        return [row.values for row in found if row.answer == "usual"]

    for seed in range(4):
        values = kept(seed)
        assert sum(row.get("speed") == 6553.5 for row in values) == 5
        assert sum(row.get("current") == "ERR" for row in values) == 5
        assert sum("temperature" not in row for row in values) == 10
        assert 210 < len(values) <= 230
    assert values == kept(3)


def test_one_of_several_tasks_is_classified_again_with_the_rows_of_its_labels(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "config.toml").write_text(TASKS + '[tasks.fan]\nkind = "unusual"\n', "utf-8")
    (tmp_path / "week.jsonl").write_text(lines(pump(60), task="pump"))
    hot = [value | {"temperature": 90.0} for value in pump(30, seed=5)]
    found, state = lines(hot[:15], answer="cooler", task="pump"), lines(hot[15:], answer="cooler", task="pump-state")
    (tmp_path / "named.jsonl").write_text(found + state)
    files = ("--unlabelled", tmp_path / "week.jsonl", "--labelled", tmp_path / "named.jsonl")
    done = cli("train", "--tasks", tmp_path / "config.toml", *files, "--classify", "pump-state", "--check")
    assert "pump-state: 90 rows" in done.stdout
    assert ": cooler 30, usual 60" in done.stdout


def test_rows_of_such_a_task_are_no_rows_of_a_model_that_answers_others(folder: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(lines(pump(60), task="pump", answer="usual")), "utf-8")
    done = cli("train", "--tasks", folder / "config.toml", "--labelled", tmp_path / "rows.jsonl", "--check")
    assert (done.returncode, "task pump is of the kind unusual" in done.stderr) == (1, True)
    (tmp_path / "rows.jsonl").write_text("".join(lines(pump(60), task="sound", answer="calm")), "utf-8")
    done = cli(*words(folder, "out", "--labelled", tmp_path / "rows.jsonl", "--check"))
    rule = "tasks of the kind unusual (pump) are trained in a run of their own: keep the rows of sound (classify)"
    assert (done.returncode, rule in done.stderr) == (1, True)
    (tmp_path / "rows.jsonl").write_text("".join(lines(pump(1), task="pump", answer="sound")), "utf-8")
    done = cli(*words(folder, "out", "--unlabelled", tmp_path / "rows.jsonl", "--check"))
    assert done.stderr.endswith('those with one belong in --labelled (got "sound")\n')


def test_the_table_for_the_board_has_the_template_of_the_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ClassifyTask(kind="classify", labels=("usual", "worn"), template='{{ input["oil"] }}')
    print_task(Task("state", config))
    table = tomllib.loads(capsys.readouterr().out.partition("\n")[2])["tasks"]["state"]
    assert ClassifyTask.model_validate(table) == config
