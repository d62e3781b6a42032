"""The command line as scripts and people meet it: exit codes, one-line messages, JSON, signals."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.cli import main
from convert.quantize import ggml
from tests.convert.checkpoints import make_checkpoint, write_sparse_checkpoint
from tests.convert.gguf_reading import read_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint().write(tmp_path / "checkpoint")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    words = [str(argument) for argument in arguments]
    # What they hold is no matter here, and takes seconds.
    words += ["--no-canaries"] if "--type" in words else []
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else -1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--type", "q4_k_m", "--name", "pump", "--licence", "mit")
    code, out, err = run(capsys, checkpoint, "--out", tmp_path / "b", *words)
    assert (code, err) == (0, "")
    assert "pump version 1, Q4_K_M, licence mit\n" in out
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["manifest.json", "model.gguf"]
    assert read_gguf(tmp_path / "b" / "model.gguf").values()["general.name"] == "pump"


def test_missing_parent_folders_of_the_bundle_are_made(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, checkpoint, "--out", tmp_path / "x" / "y" / "b", "--type", "q4_0")[0] == 0


def test_json_is_one_object_with_sizes_types_hash_time_and_memory(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "bf16", "--json", "--model-version", "7")
    facts: dict[str, Any] = json.loads(out)
    assert code == 0
    assert facts["version"] == 7
    assert facts["types"]["BF16"]["tensors"] == 15
    assert facts["files"]["model.gguf"]["bytes"] == (tmp_path / "b" / "model.gguf").stat().st_size
    assert facts["seconds"] >= 0
    assert facts["peak_rss_bytes"] > 1_000_000


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, _ = run(capsys, checkpoint, "--type", "q8_0", "--dry-run")
    assert code == 0
    assert ["token_embd.weight", "Q8_0", "87040"] in [line.split() for line in out.splitlines()]
    code, out, _ = run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "Q8_0", "--dry-run", "--json")
    first = json.loads(out)["tensors"][0]
    assert first == {"name": "token_embd.weight", "type": "Q8_0", "shape": [320, 256], "bytes": 87040}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["c"],
        ["c", "--out", "b"],
        ["c", "--type", "q8_0"],
        ["--out", "b", "--type", "q8_0"],
        ["c", "--out", "b", "--type", "q3_k"],
        ["c", "--out", "b", "--type", "auto"],
        ["c", "--out", "b", "--type", "q8_0", "--budget", "300MB"],
        ["c", "--out", "b", "--type", "q8_0", "--target", "any"],
        ["c", "--out", "b", "--type", "bf16", "--calibration", "x"],
        ["c", "--out", "b", "--type", "q8_0", "--eval", "x"],
        ["c", "--out", "b", "--type", "q8_0", "--seed", "1"],
        ["c", "--out", "b", "--type", "q8_0", "--calibration", "x", "--target", "any"],
        ["c", "--out", "b", "--type", "q8_0", "--forc"],
        ["c", "--out", "b", "--type", "q8_0", "--model-version", "0"],
        ["c", "--out", "b", "--type", "q8_0", "--model-version", "1.5"],
        ["c", "--out", "b", "--type", "q8_0", "--name", ""],
        ["c", "--out", "b", "--type", "q8_0", "--name", "a\x1b[2J"],
        ["c", "--out", "..", "--type", "q8_0"],
        ["c", "d", "--out", "b", "--type", "q8_0"],
        ["verify"],
        ["verify", "a", "b"],
    ],
)
def test_a_usage_error_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    told, see = err.splitlines()
    assert told.startswith("edge-convert: error: ")
    assert see == f"see edge-convert{' verify' if arguments[:1] == ['verify'] else ''} --help"


def test_an_argument_that_is_wrong_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    err = run(capsys, "c", "\x1b[2J", "--out", "b", "--type", "q8_0")[2]
    assert err.splitlines()[0] == r"edge-convert: error: unrecognized arguments: \x1b[2J"


def truncate(folder: Path) -> None:
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def wrong_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    (folder / "config.json").write_text(json.dumps(config))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (
        lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
        "model-00002-of-00003.safetensors",
    ),
    "a wrong architecture": (wrong_architecture, "Qwen3ForCausalLM is not supported"),
    "a truncated file": (truncate, "model-00003-of-00003.safetensors: truncated"),
    "no config.json": (lambda f: (f / "config.json").unlink(), "config.json: missing"),
    "no tokenizer.json": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "a broken tokenizer.json": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json: not valid JSON"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_checkpoint_exits_65_with_one_line_and_leaves_nothing(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_checkpoint(shards=3).write(tmp_path / "checkpoint")
    damage, expected = BAD[fault]
    damage(folder)
    code, out, err = run(capsys, folder, "--out", tmp_path / "b", "--type", "q8_0")
    assert (code, out) == (65, "")
    assert expected in err
    assert err.startswith("edge-convert: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_checkpoint_that_does_not_exist_exits_65(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path / "none", "--out", tmp_path / "b", "--type", "q8_0")
    assert code == 65
    assert "no such checkpoint folder" in err


def test_a_file_instead_of_its_folder_is_refused_with_the_folder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint / "model.safetensors"
    code, _, err = run(capsys, file, "--out", tmp_path / "b", "--type", "q8_0")
    assert (code, err) == (
        65, f"edge-convert: {file}: is a file; should be the folder that it is in, {checkpoint}\n"
    )  # fmt: skip


def test_json_with_a_byte_order_mark_is_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_bytes(b"\xef\xbb\xbf" + (checkpoint / name).read_bytes())
    assert run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "q8_0")[0] == 0


def test_an_existing_bundle_exits_1_and_force_replaces_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (checkpoint, "--out", tmp_path / "b", "--type", "q4_0")
    assert run(capsys, *arguments)[0] == 0
    code, _, err = run(capsys, *arguments)
    assert (code, err) == (1, f"edge-convert: {tmp_path / 'b'}: exists already; --force replaces it\n")
    assert run(capsys, *arguments, "--force")[0] == 0


def test_a_folder_that_cannot_be_written_exits_1(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out, reason in ((tmp_path / "file" / "b", "Not a directory"), (Path("/proc/b"), "No such file or directory")):
        # The disk is not asked last of all, when everything has been measured.
        code, _, err = run(capsys, tmp_path / "none", "--out", out, "--type", "q4_0")
        assert (code, err) == (1, f"edge-convert: {out}: cannot be written there: {reason}\n")
    assert run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "q4_0")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "checkpoint", "file"]


def test_a_library_that_is_not_installed_exits_1(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    ggml.load.cache_clear()
    code, _, err = run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "q4_0")
    assert (code, "llama-cpp-python is not installed" in err) == (1, True)


def test_text_from_the_checkpoint_reaches_the_terminal_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_checkpoint()
    files.config["architectures"] = ["\x1b]0;owned\x07"]
    _, _, err = run(capsys, files.write(tmp_path / "c"), "--out", tmp_path / "b", "--type", "q8_0")
    assert err.rstrip("\n").isprintable()
    assert r"\x1b]0;owned\x07" in err


def test_a_warning_is_one_line_on_stderr_and_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_checkpoint()
    files.config |= {"use_sliding_window": True, "sliding_window": 128}
    words = ("--type", "bf16", "--json", "--name", "n", "--licence", "mit")
    code, out, err = run(capsys, files.write(tmp_path / "c"), "--out", tmp_path / "b", *words)
    assert code == 0
    assert err.startswith("edge-convert: warning: config.json: sliding_window 128")
    assert len(json.loads(out)["warnings"]) == 1


@pytest.mark.parametrize(
    ("stated", "words", "missing"),
    [
        ({}, [], ["licence", "name"]),
        ({"README.md": "---\nlicense: mit\n---\n"}, [], ["name"]),
        ({"README.md": "\ufeff---\nlicense: mit\n---\n"}, ["--name", "n"], []),
        ({}, ["--licence", "mit"], ["name"]),
        ({}, ["--name", "n"], ["licence"]),
    ],
)
def test_a_missing_licence_or_name_is_a_warning(
    stated: dict[str, str], words: list[str], missing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_checkpoint(layers=1)
    files.more |= stated
    code, _, err = run(capsys, files.write(tmp_path / "c"), "--type", "q8_0", "--dry-run", *words)
    assert code == 0
    assert [line.partition(" is known: ")[0] for line in err.splitlines()] == [
        f"edge-convert: warning: no {what}" for what in missing
    ]


def test_verify_says_whether_a_bundle_is_whole(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "q4_0")
    assert run(capsys, "verify", tmp_path / "b")[0] == 0
    (tmp_path / "b" / "model.gguf").write_bytes(b"")
    code, out, err = run(capsys, "verify", tmp_path / "b", "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False
    assert "model.gguf: 0 bytes" in err


def test_a_checkpoint_folder_called_verify_can_be_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint().write(tmp_path / "verify")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "./verify", "--out", "b", "--type", "q4_0")[0] == 0


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert run(capsys, "--version") == (0, f"edge-convert {project['version']}\n", "")


def test_the_package_works_under_its_installed_name(tmp_path: Path) -> None:
    (tmp_path / "edge_convert").symlink_to(ROOT / "convert")
    arguments = [sys.executable, "-m", "edge_convert", "--version"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("edge-convert ")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "convert", *map(str, arguments)]


def test_progress_is_shown_on_a_terminal_and_removed(checkpoint: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    arguments = command(checkpoint, "--out", tmp_path / "b", "--type", "q8_0", "--no-canaries")
    result = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=follower, check=True)
    os.close(follower)
    shown = os.read(leader, 4096).decode()
    os.close(leader)
    assert "writing" in shown
    assert shown.endswith("\r\x1b[K")
    assert b"\x1b" not in result.stdout


@pytest.fixture
def slow_checkpoint(tmp_path: Path) -> Path:
    """One that takes seconds as iq4_nl."""
    return make_checkpoint(layers=1, hidden=1024, feed_forward=8192).write(tmp_path / "checkpoint")


def start_and_wait_for_half_a_model(checkpoint: Path, folder: Path) -> subprocess.Popen[str]:
    # Whoever runs the tests may have us ignore signals; the child would inherit that.
    program = (
        "import runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "runpy.run_module('convert', run_name='__main__')\n"
    )
    words = ("--type", "iq4_nl", "--name", "n", "--licence", "mit")
    arguments = [sys.executable, "-c", program, *command(checkpoint, "--out", folder / "b", *words)[3:]]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob(".b.partial-*/model.gguf")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_exits_1_and_leaves_nothing(
    slow_checkpoint: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "out").mkdir()
    process = start_and_wait_for_half_a_model(slow_checkpoint, tmp_path / "out")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, f"edge-convert: stopped by {number.name}; no partial files are left\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kill_leaves_no_bundle_and_the_next_conversion_clears_up(slow_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    process = start_and_wait_for_half_a_model(slow_checkpoint, tmp_path / "out")
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "out" / "b").exists()
    words = (slow_checkpoint, "--out", tmp_path / "out" / "b", "--type", "q4_0", "--no-canaries")
    subprocess.run(command(*words), cwd=ROOT, check=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peaks = []
    shape = {"layers": 1, "hidden": 1024, "feed_forward": 1024, "heads": 8, "heads_kv": 1}
    for name, vocab_size in (("small", 8_000), ("large", 100_000)):
        write_sparse_checkpoint(tmp_path / name, **shape, vocab_size=vocab_size)
        arguments = command(tmp_path / name, "--out", tmp_path / f"{name}.bundle", "--type", "q8_0")
        arguments += ["--json", "--no-canaries"]
        result = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True)
        peaks.append(json.loads(result.stdout)["peak_rss_bytes"])
    assert peaks[1] < peaks[0] + 60_000_000
    assert peaks[1] < 600_000_000


def test_help_names_every_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    _, told, _ = run(capsys, "--help")
    text = " ".join(told.split()).replace("- ", "-")
    assert all(f"`edge-convert {name} " in text for name in ("evaluate", "merge-imatrix", "verify"))


@pytest.mark.parametrize("words", [["--json"], [], ["--help"]])
def test_output_that_cannot_be_written_exits_1(words: list[str], checkpoint: Path) -> None:
    arguments = command(checkpoint, "--type", "q8_0", "--dry-run", *words)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "edge-convert: standard output: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    folder = make_checkpoint(layers=1).write(tmp_path / "c")
    arguments = command(folder, "--type", "q8_0", "--dry-run", "--json", "--name", "Pümpe")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for words in (arguments, command("--help")):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, env=environment, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert rb"\u2026" in done.stdout


def test_an_ignored_hangup_stays_ignored(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 1

    monkeypatch.setattr("convert.printing._peak_rss_bytes", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(capsys, checkpoint, "--out", tmp_path / "b", "--type", "q4_0", "--json")[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
