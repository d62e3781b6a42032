"""Canaries are recorded from a finished bundle, the same however it is run, and not those of a damaged model."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from convert.cli import main
from convert.evaluate import canaries as recording
from convert.evaluate import worker as asked
from convert.evaluate.canaries import _canary, included_requests, record_canaries
from convert.evaluate.worker import AdaptedModel
from edge_agent.core.codes import Code
from edge_agent.core.pipe import EngineRequest, Failed, Finish, Finished, Load
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import Canary, decode
from edge_agent.requests.task_tables import load_task_configs
from edge_agent.tools.demo.readings import checkpoint_folder, held_out
from edge_agent.worker.client import WorkerClient, WorkerError
from tests.convert.conversions import Cli, ignore_progress, run
from tests.convert.damage import DAMAGES, REFUSING_TEMPLATE, damaged, set_template, swap_tokens
from tests.engine import r1_distill
from tests.helpers.bundles import DEMO_TASKS, demo_requests, write_lines
from tests.helpers.support import finished


def record(checkpoint: Path, bundle: Path, *more: object) -> int:
    """Records canaries with our own requests."""
    return main([str(word) for word in (checkpoint, "--type", "q4_0", "--out", bundle, *more)])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `own`, a bundle with our canaries, and `demo`, one with those of the demonstration's tasks."""
    folder = tmp_path_factory.mktemp("canaries")
    requests = demo_requests(folder / "requests.jsonl", 3)
    assert record(checkpoint_folder(), folder / "own") == 0
    assert record(checkpoint_folder(), folder / "demo", "--tasks", DEMO_TASKS, "--canaries", requests) == 0
    return folder


TRIAGE = {"task": "machine-triage", "input": held_out()[0].payload}


def keep_first(bundle: Path) -> dict[str, Any]:
    """Leaves the first canary of each task of the demonstration; returns what the file then holds."""
    recorded: dict[str, Any] = json.loads((bundle / "canaries.json").read_bytes())
    recorded["canaries"] = recorded["canaries"][:3]
    (bundle / "canaries.json").write_text(json.dumps(recorded))
    return recorded


def differences(bundle: Path) -> list[str]:
    return recording.differences(bundle, AdaptedModel.from_path(bundle), ignore_progress)


def test_a_bundle_holds_answers_of_each_kind_and_the_agent_opens_it(work: Path) -> None:
    manifest = json.loads((work / "own" / "manifest.json").read_text("utf-8"))
    assert sorted(manifest["files"]) == ["canaries.json", "model.gguf"]
    assert open_model("default", work / "own").warning is None
    canaries = decode((work / "own" / "canaries.json").read_bytes())
    kinds = {canaries.tasks[canary.task].kind for canary in canaries.canaries}
    assert kinds == {"classify", "extract", "generate"}
    assert {name.endswith("-zh") for name in canaries.tasks} == {True, False}
    assert len(canaries.canaries) >= 10
    prompts = [canary.prompt.tokens if canary.prompt else 0 for canary in canaries.canaries]
    assert min(prompts) > 20
    assert max(prompts) > 500


def test_the_recorded_answers_are_right_and_need_no_configuration(work: Path) -> None:
    canaries = decode((work / "demo" / "canaries.json").read_bytes())
    assert len(canaries.canaries) == 9
    for index, reading in enumerate(held_out()[:3]):
        triage, diagnosis, explanation = (canaries.canaries[3 * index + at].answer for at in range(3))
        assert triage.scores is not None
        assert max(triage.scores, key=triage.scores.__getitem__) == reading.fault
        assert diagnosis.values is not None
        assert diagnosis.values["fault"] == reading.diagnosis["fault"]
        assert explanation.beginning
    task = load_task_configs(DEMO_TASKS)["machine-diagnosis"]
    stored = canaries.tasks["machine-diagnosis"]
    assert (stored.system, stored.template) == (task.system, task.template)
    assert canaries.build_engine_request(1, 5).plan.kind == "schema"


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 1, "prefill_threads": 1, "batch_tokens": 32},
        {"threads": 3, "prefill_threads": 3, "max_active": 4, "context_tokens": 2048},
    ],
    ids=("narrow steps", "other requests beside"),
)
def test_the_answers_do_not_depend_on_how_the_model_runs(
    work: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "_SETTINGS", asked._SETTINGS.model_copy(update=settings))
    bundle = work / "few"
    if not bundle.exists():
        shutil.copytree(work / "demo", bundle)
        keep_first(bundle)
    assert differences(bundle) == []


def differences_of(checkpoint: Path, bundle: Path, canaries: Path, kind: str = "q4_0") -> list[str]:
    """The differences of the checkpoint's answers from recorded ones.

    Objects are left out, because they cost a second and show no more.
    """
    assert run(checkpoint, "--type", kind, "--out", bundle) == 0
    recorded = json.loads((canaries / "canaries.json").read_bytes())
    recorded["canaries"] = [one for one in recorded["canaries"] if "values" not in one["answer"]]
    (bundle / "canaries.json").write_text(json.dumps(recorded))
    return differences(bundle)


def test_another_quantization_of_the_model_has_almost_the_same_answers(work: Path, tmp_path: Path) -> None:
    assert len(differences_of(checkpoint_folder(), tmp_path / "b", work / "demo", "q8_0")) <= 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_answers_differently(work: Path, tmp_path: Path, damage: str) -> None:
    checkpoint = damaged(checkpoint_folder(), tmp_path / "c", DAMAGES[damage])
    assert len(differences_of(checkpoint, tmp_path / "b", work / "demo")) >= 2


def test_a_slightly_damaged_tokenizer_is_seen_by_its_tokens(work: Path, tmp_path: Path) -> None:
    checkpoint = damaged(checkpoint_folder(), tmp_path / "c", swap_tokens)
    found = differences_of(checkpoint, tmp_path / "b", work / "own")
    assert found
    assert all("of the prompt's" in difference for difference in found)


def test_verify_asks_again_and_names_the_canary_and_both_answers(work: Path, tmp_path: Path, cli: Cli) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(work / "demo", bundle)
    canaries = keep_first(bundle)
    canaries["canaries"][2]["answer"]["beginning"] = "Nothing of the kind"
    (bundle / "canaries.json").write_text(json.dumps(canaries))
    done = cli("verify", bundle, "--canaries")
    assert (done.returncode, "canaries.json: should have " in done.stderr) == (1, True), "a changed file is not asked"
    (expected,) = differences(bundle)
    assert expected.startswith("canaries[2] (machine-explanation): the text is ")
    assert 'recorded beginning: "Nothing of the kind"' in expected


def test_a_model_without_a_chat_template_is_asked_in_chatml(tmp_path: Path) -> None:
    checkpoint = damaged(checkpoint_folder(), tmp_path / "c", lambda folder: set_template(folder, None))
    requests = write_lines(tmp_path / "requests.jsonl", TRIAGE)
    assert record(checkpoint, tmp_path / "b", "--tasks", DEMO_TASKS, "--canaries", requests) == 0
    assert len(decode((tmp_path / "b" / "canaries.json").read_bytes()).canaries) == 1


def test_a_template_that_takes_no_request_leaves_a_bundle_without_canaries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = damaged(checkpoint_folder(), tmp_path / "c", lambda folder: set_template(folder, REFUSING_TEMPLATE))
    assert record(checkpoint, tmp_path / "b", "--json") == 0
    captured = capsys.readouterr()
    assert "warning: the bundle has no canaries: the model answers none of the requests: " in captured.err
    assert "no conversations" in captured.err
    assert "no canaries" in json.loads(captured.out)["warnings"][-1]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["manifest.json", "model.gguf"]


def test_only_requests_of_the_user_must_be_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_load: Load) -> None:
        raise WorkerError("the model does not load")

    monkeypatch.setattr(asked, "started_worker", fail)
    assert record(checkpoint_folder(), tmp_path / "b") == 0
    assert "model.gguf cannot run: the model does not load" in capsys.readouterr().err
    requests = demo_requests(tmp_path / "requests.jsonl", 1)
    assert record(checkpoint_folder(), tmp_path / "own", "--tasks", DEMO_TASKS, "--canaries", requests) == 1
    assert "canaries cannot be recorded: " in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_a_request_without_a_canary_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = write_lines(tmp_path / "requests.jsonl", TRIAGE, TRIAGE | {"input": "pump " * 5000})
    assert record(checkpoint_folder(), tmp_path / "b", "--tasks", DEMO_TASKS, "--canaries", requests) == 0
    assert f"canary left out: {requests}:2: input: a prompt of " in capsys.readouterr().err
    assert len(decode((tmp_path / "b" / "canaries.json").read_bytes()).canaries) == 1


def test_too_many_requests_are_refused_before_the_conversion(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "many.jsonl").write_text('{"task":"machine-triage","input":"x"}\n' * 101)
    for name, expected in (("none", "none.jsonl: cannot be read"), ("many", "101 requests, at most 100 are allowed")):
        words = ["--tasks", DEMO_TASKS, "--canaries", tmp_path / f"{name}.jsonl"]
        done = cli(tmp_path / "no checkpoint", "--type", "q4_0", "--out", tmp_path / "b", *words)
        assert (done.returncode, expected in done.stderr) == (1, True)


class FakeWorker:
    """Gives these answers, one after the other."""

    def __init__(self, *texts: str, finish: Finish = Finish.STOP) -> None:
        self.texts = list(texts)
        self.finish = finish
        self.temperatures: list[float] = []

    def ask(self, run: EngineRequest) -> Finished | Failed:
        self.temperatures.append(run.sampling.temperature or 0.0)
        text = self.texts.pop(0)
        if not text:
            return Failed(id=run.id, code=Code.NO_VALID_OUTPUT, message="cut off")
        return finished(run.id, text=text, finish=self.finish)


@pytest.mark.parametrize(
    ("texts", "recorded"),
    [
        (["The valve is shut."] * 4, "The valve is shut."),
        (["The valve is shut.", "The valve was open", "The valve is", "The valve is shut"], "The valve "),
        (["阀门关闭", "阀门关上了", "阀门关闭", "阀门关闭"], "阀门关"),
        (["The valve", "A valve", "The valve", "The valve"], None),
        (["Shut", "Shut", "Shut", "Shut"], None),
        (["The valve", "The valve", "", "The valve"], None),
    ],
)
def test_a_text_is_recorded_up_to_the_first_close_choice(texts: list[str], recorded: str | None) -> None:
    request = next(request for request in included_requests().requests if request.task.config.kind == "generate")
    worker = FakeWorker(*texts)
    canary = _canary(cast("WorkerClient", worker), request.task, request)
    assert worker.temperatures[0] == 0.0
    if isinstance(canary, str):
        assert (recorded, "close choices" in canary) == (None, True)
    else:
        assert canary.answer.beginning == recorded
        assert min(worker.temperatures[1:]) > 1


def test_only_fields_without_a_close_choice_are_recorded() -> None:
    request = next(request for request in included_requests().requests if request.task.config.kind == "extract")
    answers = [{"machine": "M", "urgent": True, "hours": hours, "where": {"hall": hall}} for hours, hall in
               ((200, 1), (201, 2), (200, 1), (199, 1))]  # fmt: skip
    worker = FakeWorker(*map(json.dumps, answers), finish=Finish.SCHEMA)
    canary = _canary(cast("WorkerClient", worker), request.task, request)
    assert isinstance(canary, Canary)
    assert canary.answer.values == {"machine": "M", "urgent": True, "hours": 200}


def test_a_signal_while_answers_are_recorded_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int | None] = []

    def ask(self: WorkerClient, _run: EngineRequest) -> Finished:
        pids.append(self.process.pid)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(WorkerClient, "ask", ask)
    assert record(checkpoint_folder(), tmp_path / "b") == 1
    assert "stopped by SIGTERM; no partial files are left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (pid,) = pids
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


def test_a_reasoning_model_answers_without_a_thought(tmp_path: Path) -> None:
    """Otherwise the thought would take all the tokens that an answer of a canary has."""
    model = r1_distill.convert(checkpoint_folder(), tmp_path)
    requests = included_requests()
    of_each_kind = {request.task.config.kind: request for request in requests.requests}
    few = replace(requests, requests=[of_each_kind["classify"], of_each_kind["generate"]])
    record_canaries(AdaptedModel(model), few, model.parent, ignore_progress)
    canaries = decode((model.parent / "canaries.json").read_bytes())
    assert len(canaries.canaries) >= 2
    assert {
        canaries.build_engine_request(index, 0).max_reasoning_tokens for index in range(len(canaries.canaries))
    } <= {0, None}
