"""`edge-agent tune`: files are read strictly, prompts are judged on rows that they do not show, and the keys load."""

import json
import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.task import Example
from edge_agent.core.labelled import RowsError
from edge_agent.learning.commands.tune import prompts
from edge_agent.learning.commands.tune.judge import (
    Candidate,
    Correction,
    PromptTrial,
    candidates,
    choose,
    log_loss_gain,
)
from edge_agent.learning.commands.tune.prompts import AS_CONFIGURED, Plan, Prompt, Results
from edge_agent.learning.commands.tune.report import fragment, words
from edge_agent.learning.commands.tune.search import Search
from edge_agent.learning.commands.tune.tune import read_inputs, read_labelled
from edge_agent.loader import load_config
from edge_agent.requests.rows import TaskRow
from edge_agent.requests.tasks import Task
from edge_agent.tools.demo import readings
from edge_agent.tools.toml import toml
from tests.helpers.processes import EdgeAgent

LABELS = ("calm", "loud")
TASK = ClassifyTask(kind="classify", labels=LABELS, system="Name the sound.")
CONFIG = """
[device]
site = "hall1"
id = "board1"
[models.default]
path = {path}
[tasks.sound]
kind = "classify"
system = "Name the sound."
labels = ["calm", "loud"]
[tasks.chat]
kind = "generate"
[tasks.level]
kind = "classify"
labels = ["calm", "loud"]
required = ["db"]
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def lines(rows: Sequence[tuple[object, str]]) -> str:
    return "".join(json.dumps({"input": value, "answer": answer}) + "\n" for value, answer in rows)


def sound(value: object, answer: str) -> TaskRow:
    return TaskRow("", Task("sound", TASK), {"input": value, "answer": answer})


def test_labelled_rows_come_once_from_json_lines_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task("sound", TASK)
    given = written(tmp_path / "a.jsonl", lines([("a", "calm"), ({"db": 3}, "loud"), ("a", "calm")]))
    assert [(row.input, row.answer) for row in read_labelled(given, task)] == [("a", "calm"), ({"db": 3}, "loud")]
    assert capsys.readouterr().err == "2 of 3 rows count, because the others repeat an input\n"
    kept = json.dumps({"task": "sound", "ts": "2026-11-02T06:00:00Z", "input": "a", "answer": "calm"})
    assert [row.input for row in read_labelled(written(tmp_path / "kept.jsonl", kept), task)] == ["a"]
    assert [row.input for row in read_labelled(written(tmp_path / "b.csv", "db,label\n3,loud\n"), task)] == [{"db": 3}]
    assert capsys.readouterr().err == ""


def test_inputs_without_labels_are_rows_or_texts(tmp_path: Path) -> None:
    texts = written(tmp_path / "d.txt", 'a hum\n\n{"db":3}\n{"input":{"db":4}}\n7\n')
    assert read_inputs(texts) == ["a hum", {"db": 3}, {"db": 4}, "7"]
    assert read_inputs(written(tmp_path / "e.csv", "db,ts\n3,1\n4,2\n")) == [{"db": 3}, {"db": 4}]


def test_an_input_with_two_answers_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", lines([("a", "calm"), ("a", "loud")]))
    with pytest.raises(RowsError, match=r"a\.jsonl:2: answer: the same input has another answer earlier"):
        read_labelled(path, Task("sound", TASK))


class Everything:
    """Results where all prompts are equally good and fast."""

    def best(self) -> Prompt:
        return Prompt(AS_CONFIGURED, TASK)

    def is_fast_enough(self, prompt: Prompt) -> bool:
        return prompt.config.examples_as == "system"


def test_prompts_show_as_many_rows_of_each_label() -> None:
    rows = [sound(f"sound {number}", LABELS[number % 3 == 0]) for number in range(50)]
    tried = list(Plan(TASK, rows, range(50), ["What is heard?"]).prompts(Everything()))
    assert [prompt.name for prompt in tried[:3]] == [AS_CONFIGURED, "wording 1", "2 examples, turns, choice 1"]
    assert {(len(one.examples), one.config.examples_as) for one in tried[2:]} >= {(16, "turns"), (2, "system")}
    for prompt in tried[2:]:
        shown = prompt.config.examples
        assert shown == tuple(Example(input=rows[one].input, answer=rows[one].answer) for one in prompt.examples)
        assert sum(example.answer == "calm" for example in shown) == len(shown) / 2
    # Other choices are only made among what is fast.
    assert all(one.config.examples_as == "system" for one in tried if one.name.endswith("choice 2"))
    assert len({one.examples for one in tried if one.name.startswith("4 examples, system")}) == 8


def trial(
    scores: Sequence[float], *, shown: Sequence[int] = (), prior: float | None = None, name: str = ""
) -> PromptTrial:
    """Answers to a prompt. `scores` are those of `loud`, by number of a row."""
    prompt = Prompt(name or AS_CONFIGURED, TASK, tuple(shown))
    by_row = {row: {"calm": 1 - one, "loud": one} for row, one in enumerate(scores) if row not in shown}
    return PromptTrial(prompt, "d", None if prior is None else {"calm": 1 - prior, "loud": prior}, by_row)


# A model that prefers `loud`, but knows the difference.
ANSWERS = ["calm", "loud"] * 20
NOISE = [random.Random(1).uniform(-0.04, 0.04) for _ in ANSWERS]
PREFERS = [(0.8 if answer == "calm" else 0.9) + noise for answer, noise in zip(ANSWERS, NOISE, strict=True)]


def by_correction(several: Sequence[Candidate]) -> dict[Correction, Candidate]:
    return {one.correction: one for one in several}


def test_corrections_lift_a_label_that_never_wins() -> None:
    several = candidates(trial(PREFERS, prior=0.85), ANSWERS, None)
    found = by_correction(several)
    assert found[Correction.AS_IS].accuracy == 0.5
    assert found[Correction.PRIOR].accuracy > 0.9
    assert found[Correction.MAP].accuracy > 0.9
    assert log_loss_gain(found[Correction.MAP], found[Correction.AS_IS])[0] > 0
    assert Correction.MEAN not in found
    assert choose(several, found[Correction.PRIOR]).correction is not Correction.AS_IS


def test_the_mean_of_inputs_needs_no_label() -> None:
    answers = trial(PREFERS)
    answers.unlabelled = list(answers.scores.values())
    found = by_correction(candidates(answers, ANSWERS, None))
    assert found[Correction.MEAN].accuracy > 0.9
    assert Correction.PRIOR not in found


def test_a_map_is_judged_on_rows_that_its_fit_did_not_see() -> None:
    draw = random.Random(2)
    noise = trial([draw.uniform(0.1, 0.9) for _ in range(60)])
    answers = [draw.choice(LABELS) for _ in range(60)]
    found = by_correction(candidates(noise, answers, None))
    assert found[Correction.MAP].accuracy < 0.7


def test_the_luckiest_of_many_prompts_is_not_chosen() -> None:
    """All prompts answer by chance alone; one of them looks best."""
    draw = random.Random(3)
    answers = [draw.choice(LABELS) for _ in range(30)]
    several = []
    for number in range(12):
        shown = draw.sample(range(30), 4) if number else ()
        scores = [min(max(0.5 + draw.gauss(0, 0.05), 0.01), 0.99) for _ in answers]
        several += candidates(trial(scores, shown=shown, name=f"{number}" if number else ""), answers, None)
    assert choose(several, several[0]).trial.prompt.name == AS_CONFIGURED


def test_examples_that_change_nothing_are_not_chosen() -> None:
    """Rows that a balanced choice leaves are of other shares, so both prompts are fitted to the same ones."""
    answers = ["calm"] * 8 + ["loud"] * 32
    scores = [0.4 + 0.02 * (row % 7) for row in range(40)]
    plain = candidates(trial(scores), answers, None)
    shows = candidates(trial(scores, shown=[*range(6), *range(20, 26)], name="12 examples"), answers, None)
    assert by_correction(shows)[Correction.MAP].accuracy > by_correction(plain)[Correction.MAP].accuracy
    assert choose([*plain, *shows], plain[0]).trial.prompt.name == AS_CONFIGURED


def test_a_prompt_that_is_really_better_is_chosen() -> None:
    good = [0.1 if answer == "calm" else 0.9 for answer in ANSWERS]
    plain, better = trial([0.5 + noise for noise in NOISE]), trial(good, shown=[0, 1], name="2 examples")
    several = [*candidates(plain, ANSWERS, None), *candidates(better, ANSWERS, None)]
    assert choose(several, several[0]).trial is better


def test_a_model_that_is_sure_and_wrong_is_badly_calibrated() -> None:
    (sure, *_) = candidates(trial([0.0] * 10), ["calm"] * 5 + ["loud"] * 5, None)
    assert sure.calibration_error == pytest.approx(0.5)
    assert sure.accuracy == 0.5


def test_the_keys_put_the_map_in_force(tmp_path: Path) -> None:
    task = Task("sound", TASK)
    examples = (Example(input={"db": 3.5, "a b": ['"', "\n"]}, answer="calm"), Example(input="clang", answer="loud"))
    config = TASK.model_copy(update={"system": 'Which "sound"?', "examples": examples, "examples_as": "system"})
    answers = trial(PREFERS, prior=0.85)
    answers.prompt = replace(answers.prompt, config=config)
    chosen = by_correction(candidates(answers, ANSWERS, None))[Correction.MAP]
    text = CONFIG.format(path='"echo:"').replace('system = "Name the sound."\n', "")
    keys = fragment(task, chosen, "weights", "About.").replace("[tasks.sound]\n", "", 1)
    table, rest = text.split("[tasks.chat]")
    path = written(tmp_path / "config.toml", f"{table}{keys}\n[tasks.chat]{rest}")
    loaded = Task("sound", load_config(path).tasks["sound"])
    assert loaded.leading_messages == Task("sound", config).leading_messages
    assert loaded.has_map_for("weights")
    assert not loaded.has_map_for("others")
    assert loaded.score_map is not None
    raw = {"calm": 0.2, "loud": 0.8}
    assert chosen.score_map is not None
    assert loaded.score_map.apply(raw) == pytest.approx(chosen.score_map.apply(raw), abs=1e-3)


def test_toml_is_what_was_given() -> None:
    value = {"a b": [1, 2.5, True, "x\x7f\n"], "c": {"d": "é"}}
    assert tomllib.loads(f"v = {toml(value)}")["v"] == value


def echo_rows(tmp_path: Path) -> Path:
    """Rows of which two in five name the other label, while the test model is sure of a label that an input names."""
    rows = [(f"{LABELS[(row % 2) ^ (row % 5 < 2)]} {row}", LABELS[row % 2]) for row in range(30)]
    return written(tmp_path / "rows.jsonl", lines(rows))


@pytest.fixture
def tune(tmp_path: Path, edge_agent: EdgeAgent) -> EdgeAgent:
    """`edge-agent tune` with a configuration whose model is the test model."""
    config = written(tmp_path / "config.toml", CONFIG.format(path='"echo:"'))
    return partial(edge_agent, "tune", "--config", config)


def test_it_prints_a_table_and_writes_keys(tmp_path: Path, tune: EdgeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_EXAMPLE_COUNTS", (2,))
    monkeypatch.setattr(prompts, "_SEEDS", 1)
    out = tmp_path / "keys.toml"
    words = ("sound", "--labelled", echo_rows(tmp_path), "--minutes", "5")
    printed = tune(*words, "--out", out).stdout
    assert f"·  {AS_CONFIGURED}" in printed
    assert "before  log loss  calibration error" in printed
    assert "2 examples, turns, choice 1" in printed
    assert tomllib.loads(out.read_text("utf-8"))["tasks"]["sound"]["score_map"]["scale"].keys() == set(LABELS)
    done = tune(*words, "--out", out)
    assert (done.returncode, "keys.toml exists; --force replaces it" in done.stderr) == (1, True)
    document = tune(*words, "--json").document
    assert document["rows"] == 30
    assert {one["correction"] for one in document["tried"]} == {"as-is", "prior", "map", "map of prior"}
    assert tomllib.loads(document["fragment"])["tasks"]["sound"]
    assert document["untried"] == []


def new_search() -> Search:
    return Search(
        worker=MagicMock(),
        task=Task("sound", TASK),
        rows=[sound(number, answer) for number, answer in enumerate(ANSWERS)],
        weights_sha256="weights",
        until=0,
        max_slower=5,
        say=print,
    )


@pytest.mark.parametrize(("prior", "correction"), [(0.85, Correction.PRIOR), (0.5, Correction.AS_IS)])
def test_what_is_in_force_depends_on_whether_the_answers_collapse(prior: float, correction: Correction) -> None:
    search = new_search()
    prefers = trial(PREFERS, prior=prior)
    search._trials[AS_CONFIGURED], search._tried[AS_CONFIGURED] = prefers, candidates(prefers, ANSWERS, None)
    assert search.reference.correction is correction


class SlowTrial(PromptTrial):
    slowdown = 1.19


def test_a_better_prompt_that_is_too_slow_is_named_with_the_option_to_get_it() -> None:
    search = new_search()
    plain = trial([0.5 + noise for noise in NOISE])
    good = trial([0.1 if answer == "calm" else 0.9 for answer in ANSWERS], name="4 examples")
    slow = SlowTrial(good.prompt, "d", None, good.scores)
    for one in (plain, slow):
        one.pairs_ms.append((480, 480))
        search._trials[one.prompt.name] = one
        search._tried[one.prompt.name] = candidates(one, ANSWERS, None)
    search.chosen = search.reference
    assert search.reference.correction is Correction.AS_IS
    (line,) = [line for line in words(search, max_slower=5) if "takes 19% more time" in line]
    assert "4 examples, map, right on 100% of its rows; the chosen one is right on 5" in line
    assert line.endswith("To get it: --max-slower 20.")
    assert [limit for limit, _ in search.slower_choices()] == [20]


def test_ctrl_c_ends_with_what_is_known(tmp_path: Path, tune: EdgeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Plan.prompts

    def interrupted(plan: Plan, results: Results) -> Iterator[Prompt]:
        yield next(drawn(plan, results))
        raise KeyboardInterrupt

    monkeypatch.setattr(Plan, "prompts", interrupted)
    done = tune("sound", "--labelled", echo_rows(tmp_path), "--json")
    assert done.returncode == 0
    assert {one["prompt"] for one in done.document["tried"]} == {AS_CONFIGURED}


@pytest.mark.parametrize(
    ("task", "options", "fault"),
    [
        ("chat", ["--labelled", "rows.jsonl"], 'kind classify: sound, level (got "chat", of the kind generate)'),
        ("sound", [], "no rows: give --labelled"),
        ("sound", ["--labelled", "few.jsonl"], "at least 20 labelled rows with different inputs (got 1)"),
        ("level", ["--labelled", "few.jsonl"], "few.jsonl:1: input: should have db, because of `tasks.level.required`"),
        ("sound", ["--labelled", "bad.jsonl"], "bad.jsonl:1: answer: should be one of calm, loud"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    tmp_path: Path, tune: EdgeAgent, monkeypatch: pytest.MonkeyPatch, task: str, options: list[str], fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    echo_rows(tmp_path)
    written(tmp_path / "few.jsonl", lines([("a", "calm")]))
    written(tmp_path / "bad.jsonl", lines([("a", "soft")]))
    done = tune(task, *options)
    assert (done.returncode, fault in done.stderr) == (1, True)


def test_without_labels_it_says_which_labels_are_best(tmp_path: Path, tune: EdgeAgent) -> None:
    inputs = written(tmp_path / "inputs.txt", "calm 1\ncalm 2\nloud 3\n")
    counts = tune("sound", "--unlabelled", inputs, "--json").document["best_labels"]
    assert counts["as-is"] == {"calm": 2, "loud": 1}
    assert counts.keys() == {"as-is", "prior", "mean of inputs"}


def test_a_real_model_is_tuned_within_its_time(demo_bundle: Path, tmp_path: Path, edge_agent: EdgeAgent) -> None:
    task = readings.tasks()["machine-triage"]
    table = "".join(f"{key} = {toml(value)}\n" for key, value in task.items())
    text = CONFIG.format(path=toml(str(demo_bundle))) + f"[tasks.pump]\n{table}"
    config = written(tmp_path / "config.toml", text)
    rows = [(reading.payload, reading.fault) for reading in readings.held_out()[:20]]
    labelled = written(tmp_path / "rows.jsonl", lines(rows))
    words = ("--labelled", labelled, "--config", config, "--minutes", "0.01", "--json")
    document = edge_agent("tune", "pump", *words).document
    first = document["tried"][0]
    assert first["accuracy"] >= 0.8
    assert first["ms"] > 0
    assert document["untried"], "there is no time for any other prompt"
