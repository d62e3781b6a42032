"""`edge-agent bench` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_agent.cli import main
from tests.helpers.ggufs import STRING, changed_model
from tests.helpers.processes import wait_until

COMMAND = [sys.executable, "-m", "edge_agent", "bench"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_a_quick_bench_measures_a_real_model(demo_bundle: Path) -> None:
    done = bench("--model", str(demo_bundle), "--quick", "--json")

    assert done.returncode == 0, done.stderr
    assert list(dict.fromkeys(line.partition(":")[0] for line in done.stderr.splitlines())) == [
        *("the model is checked", "the worker starts and measures its steps", "tasks", "the worker starts again"),
        *("decode", "prefill"),
    ]
    told = json.loads(done.stdout)
    assert set(told) == {
        *("version", "ts", "quick", "summary", "board", "model", "engine", "tasks", "steps", "worker"),
    }
    assert told["model"]["bundle"] == "pump-demo"
    assert [(task["task"], task["clients"]) for task in told["tasks"]] == [
        (task, clients) for task in ("classify", "extract", "generate") for clients in (1, 4)
    ]
    for task in told["tasks"]:
        assert task["failed"] == 0, task["failure"]
        assert task["requests_per_s"] > 0
        percentiles = [task[name] for name in ("p50_ms", "p95_ms", "p99_ms") if task[name] is not None]
        assert task["p50_ms"] > 0
        assert percentiles == sorted(percentiles)
        # The system text is decoded once; the reading is each request's own.
        assert 0.5 < task["cached_share"] < 1
    written = {task["task"]: task["completion_tokens"] for task in told["tasks"]}
    assert written["classify"] == 0
    assert 0 < written["generate"] <= 32
    decode, prefill = told["steps"]["decode"], told["steps"]["prefill"]
    assert [step["rows"] for step in decode] == [1, 2, 4]
    assert {16, 64, 128, 256, told["engine"]["batch_tokens"]} == {step["rows"] for step in prefill}
    assert all(rate > 0 for step in (*decode, *prefill) for rate in step["tokens_per_s"].values())
    assert decode[0]["fastest_threads"] is not None
    worker = told["worker"]
    assert worker["anonymous_mib"] > 5
    assert worker["file_mib"] > 5
    assert min(worker["first_start_s"], worker["later_start_s"]) > 0


@pytest.fixture
def running(demo_bundle: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [*COMMAND, "--model", str(demo_bundle)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing_behind(
    running: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    parent = psutil.Process(running.pid)
    wait_until(parent.children, "the worker runs")
    worker = parent.children()[0]

    running.send_signal(number)

    assert running.wait(30) == 1
    assert (tmp_path / "errors").read_text("utf-8").endswith("\nedge-agent: interrupted\n")
    assert not worker.is_running()
    assert [path.name for path in tmp_path.iterdir()] == ["errors"]


def test_a_signal_that_nohup_ignores_does_not_end_it(demo_bundle: Path) -> None:
    command = ["nohup", *COMMAND, "--model", str(demo_bundle), "--quick", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "the worker starts and measures its steps\n":
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        # It goes on measuring, until it hears what is not ignored.
        while process.stderr.readline().partition(":")[0].strip() != "tasks":
            assert process.poll() is None
        process.terminate()
        output, errors = process.communicate(timeout=120)

    assert (process.returncode, output) == (1, "")
    assert errors.endswith("edge-agent: interrupted\n")


# What ends before anything is measured is asked without a process of its own.
def bench_here(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)
        return main(["bench", *arguments])


def test_model_and_configuration_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_here("--model", "model.gguf", "--config", str(tmp_path / "config.toml"))
    assert ended.value.code == 64


def test_a_bad_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[device]\nsite = 1\n", encoding="utf-8")
    assert bench_here("--config", str(path)) == 78
    assert "device.site" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nothing.gguf", 'edge-agent: "nothing.gguf" does not exist; '),
        ("echo:", "edge-agent: echo: is no model: there is nothing to measure; give one with --model\n"),
    ],
)
def test_a_model_that_cannot_be_measured_is_a_failure(
    model: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_here("--model", model) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.removeprefix("the model is checked\n").startswith(told)


def test_a_folder_of_bundles_is_answered_with_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pump-q8_0", "pump-q4_0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    (tmp_path / "notes").mkdir()
    assert bench_here("--model", str(tmp_path)) == 1
    assert capsys.readouterr() == (
        "",
        f"edge-agent: {tmp_path} is a folder of bundles: did you mean {tmp_path}/pump-q4_0 or {tmp_path}/pump-q8_0?\n",
    )


def test_a_model_that_does_not_load_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    model = tmp_path / "unknown.gguf"
    model.write_bytes(changed_model({"tokenizer.ggml.pre": (STRING, "none of these")}))
    done = bench("--model", str(model))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("edge-agent: the model does not load: ")


def test_settings_of_the_configuration_are_measured(demo_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[device]\nsite = "s"\nid = "d"\n[models.default]\npath = {json.dumps(str(demo_bundle))}\n'
        "[engine]\ncontext_tokens = 512\nmax_active = 2\nthreads = 1\nprefill_threads = 2\nbatch_tokens = 64\n",
        encoding="utf-8",
    )
    done = bench("--config", str(path), "--quick", "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["engine"]["context_tokens"] == 512
    assert told["engine"]["batch_tokens"] == 64
    assert {task["clients"] for task in told["tasks"]} == {1, 2}
    # A narrow step that a wide one beats, be it by accident, is run as that.
    assert all(step["chosen_threads"] == (1 if step["chosen_rows"] < 8 else 2) for step in told["steps"]["decode"])
    assert {step["chosen_threads"] for step in told["steps"]["prefill"]} == {2}
