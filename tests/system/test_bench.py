"""`edge-agent bench` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.ggufs import STRING, changed_model
from tests.helpers.processes import EdgeAgent

COMMAND = [sys.executable, "-m", "edge_agent", "bench"]


def test_a_quick_bench_measures_a_real_model_with_the_configured_settings(demo_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[device]\nsite = "s"\nid = "d"\n[models.default]\npath = {json.dumps(str(demo_bundle))}\n'
        "[engine]\ncontext_tokens = 512\nmax_active = 3\nthreads = 1\nprefill_threads = 2\nbatch_tokens = 256\n",
        encoding="utf-8",
    )
    command = [*COMMAND, "--config", str(path), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stderr
    assert list(dict.fromkeys(line.partition(":")[0] for line in done.stderr.splitlines())) == [
        *("checking the model", "starting the worker, which measures its steps", "tasks", "starting the worker again")
    ]
    document = json.loads(done.stdout)
    assert set(document) == {*("version", "ts", "quick", "summary", "board", "model", "engine", "tasks", "worker")}
    assert document["model"]["bundle"] == "pump-demo"
    settings = ("context_tokens", "max_active", "threads", "prefill_threads", "batch_tokens")
    assert [document["engine"][name] for name in settings] == [512, 3, 1, 2, 256]
    assert [(task["task"], task["clients"]) for task in document["tasks"]] == [
        (task, clients) for task in ("classify", "extract", "generate") for clients in (1, 3)
    ]
    for task in document["tasks"]:
        assert task["failed"] == 0, task["failure"]
        assert task["requests_per_s"] > 0
        percentiles = [task[name] for name in ("p50_ms", "p95_ms", "p99_ms") if task[name] is not None]
        assert task["p50_ms"] > 0
        assert percentiles == sorted(percentiles)
        # The system text is decoded once; the reading is each request's own.
        assert 0.5 < task["cached_share"] < 1
    written = {task["task"]: task["completion_tokens"] for task in document["tasks"]}
    assert written["classify"] == 0
    assert 0 < written["generate"] <= 32
    alone = {task["task"]: task for task in document["tasks"] if task["clients"] == 1}
    assert alone["classify"]["prefill_tokens_per_s"] > 0
    assert alone["classify"]["decode_tokens_per_s"] is None
    assert alone["generate"]["decode_tokens_per_s"] > 0
    worker = document["worker"]
    assert worker["anonymous_mib"] > 5
    assert worker["file_mib"] > 5
    assert min(worker["first_start_s"], worker["later_start_s"]) > 0


def test_an_interrupted_bench_leaves_nothing_and_ignores_what_nohup_ignores(demo_bundle: Path, tmp_path: Path) -> None:
    command = ["nohup", *COMMAND, "--model", str(demo_bundle)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "starting the worker, which measures its steps\n":
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        # It goes on measuring, until it hears what is not ignored.
        while process.stderr.readline().partition(":")[0].strip() != "tasks":
            assert process.poll() is None
        (worker,) = psutil.Process(process.pid).children()
        process.terminate()
        output, errors = process.communicate(timeout=120)

    assert (process.returncode, output) == (1, "")
    assert errors.endswith("edge-agent: interrupted\n")
    assert not worker.is_running()
    assert not list(tmp_path.iterdir())


def test_usage_and_a_bad_configuration_have_their_exit_codes(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[device]\nsite = 1\n", encoding="utf-8")
    assert edge_agent("bench", "--model", "model.gguf", "--config", path).returncode == 64
    done = edge_agent("bench", "--config", path)
    assert (done.returncode, "device.site" in done.stderr) == (78, True)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("nothing.gguf", 'edge-agent: "nothing.gguf" does not exist; '),
        ("echo:", "edge-agent: echo: is not a model, so there is nothing to measure; give one with --model\n"),
    ],
)
def test_a_model_that_cannot_be_measured_is_a_failure(model: str, fault: str, edge_agent: EdgeAgent) -> None:
    done = edge_agent("bench", "--model", model)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.removeprefix("checking the model\n").startswith(fault)


def test_a_model_that_does_not_load_is_a_failure_with_its_reason(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    model = tmp_path / "unknown.gguf"
    model.write_bytes(changed_model({"tokenizer.ggml.pre": (STRING, "none of these")}))
    done = edge_agent("bench", "--model", model)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("edge-agent: the model does not load: ")
