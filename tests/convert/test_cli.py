"""The command line as scripts and people meet it: exit codes, one-line messages, JSON, signals."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convert.arguments import parse_size
from edge_agent import __version__
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import Cli, contents, convert, run
from tests.convert.gguf_reading import read_gguf
from tests.helpers.processes import wait_until

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"layers": 1, "hidden": 64, "feed_forward": 96}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(**SMALL).write(tmp_path / "checkpoint")


def test_a_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    bundle = tmp_path / "x" / "y" / "b"
    words = ("--type", "q4_k_m", "--name", "pump", "--licence", "mit", "--model-version", "7")
    code, out, err = cli(checkpoint, "--out", bundle, *words)
    assert (code, err) == (0, "")
    assert "pump version 7, Q4_K_M, licence mit\n" in out
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "model.gguf"]
    assert read_gguf(bundle / "model.gguf").values()["general.name"] == "pump"
    american = ["--license" if word == "--licence" else word for word in words]
    code, out, _ = cli(checkpoint, "--out", bundle, "--force", "--json", *american)
    facts: dict[str, Any] = json.loads(out)
    assert (code, facts["version"], facts["quantization"]) == (0, 7, "Q4_K_M")
    assert json.loads((bundle / "manifest.json").read_bytes())["licence"] == "mit"
    assert facts["files"]["model.gguf"]["bytes"] == facts["file_bytes"] == (bundle / "model.gguf").stat().st_size
    assert facts["seconds"] >= 0
    assert facts["peak_rss_bytes"] > 1_000_000


def test_a_dry_run_prints_the_plan_and_writes_nothing(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, _ = cli(checkpoint, "--type", "q8_0", "--dry-run")
    assert code == 0
    assert ["token_embd.weight", "Q8_0", "21760"] in [line.split() for line in out.splitlines()]
    assert "memory on a board: about 0.2 GB with 4096 tokens of context (predicted)" in out.splitlines()[-1]
    code, out, _ = cli(checkpoint, "--out", tmp_path / "b", "--type", "Q8_0", "--dry-run", "--json")
    first = json.loads(out)["tensors"][0]
    assert first == {"name": "token_embd.weight", "type": "Q8_0", "shape": [320, 64], "bytes": 21760}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
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
        ["c", "--out", "b", "--type", "q8_0", "--recover"],
        ["c", "--out", "b", "--type", "q8_0", "--tasks", "t", "--labelled", "l"],
        ["c", "--out", "b", "--type", "q8_0", "--canaries", "r"],
        ["c", "--out", "b", "--type", "q8_0", "--tasks", "t"],
        ["c", "--out", "b", "--type", "q8_0", "--tasks", "t", "--canaries", "r", "--no-canaries"],
        ["c", "--out", "b", "--budget", "2MB", "--labelled", "l"],
        ["c", "--out", "b", "--type", "q8_0", "--forc"],
        ["c", "--out", "b", "--type", "q8_0", "--model-version", "0"],
        ["c", "--out", "b", "--type", "q8_0", "--model-version", "1.5"],
        ["c", "--out", "b", "--type", "q8_0", "--name", ""],
        ["c", "--out", "b", "--type", "q8_0", "--name", "a\x1b[2J"],
        ["c", "--out", "..", "--type", "q8_0"],
        ["c", "d", "--out", "b", "--type", "q8_0"],
        ["verify"],
        ["verify", "a", "b"],
        ["evaluate", "b"],
        ["evaluate", "b", "--against", "c", "--tasks", "t"],
        ["evaluate", "b", "--against", "c", "--labelled", "l"],
    ],
)
def test_a_usage_error_exits_2(arguments: list[str], cli: Cli) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    usage, error = err.splitlines()
    assert usage.startswith("usage: edge-convert ")
    assert " error: " in error


def test_a_word_that_is_no_sub_command_is_answered_with_those_that_are(cli: Cli) -> None:
    code, _, err = cli("convert", "Qwen2.5-0.5B-Instruct", "--out", "b", "--type", "q8_0")
    assert code == 2
    assert "unrecognized arguments: Qwen2.5-0.5B-Instruct; " in err
    assert "takes one CHECKPOINT; its sub-commands are verify, evaluate, train and extend" in err


@pytest.mark.parametrize(
    ("text", "nbytes"), [("350MB", 350_000_000), ("350 mb", 350_000_000), ("1.5G", 1_500_000_000), ("2MiB", 2 << 20)]
)
def test_a_size_is_read_in_any_case_and_without_the_b(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir Qwen2.5-0.5B-Instruct"),
        ("../my models/pumps", "hf download OWNER/MODEL --local-dir '../my models/pumps'"),
    ],
)
def test_a_missing_checkpoint_is_answered_with_the_command_that_downloads_it(
    path: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(path, "--out", "b", "--type", "q8_0")
    expected = (
        f"edge-convert: {path}: no such checkpoint folder; `{command}` downloads one (pip install huggingface_hub)\n"
    )
    assert (code, err) == (65, expected)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", b'{"architectures": ["\\u001b]0;owned\\u0007"]}', r"\x1b]0;owned\x07'] of model_type "),
        ("model-00003-of-00003.safetensors", b"cut", "model-00003-of-00003.safetensors: the file ends at byte 3"),
        ("config.json", None, "config.json: missing"),
        ("tokenizer.json", None, "tokenizer.json: missing"),
        ("tokenizer.json", b"{", "tokenizer.json: not JSON"),
    ],
)
def test_a_bad_checkpoint_exits_65_with_one_line_and_leaves_nothing(
    file: str, content: bytes | None, expected: str, tmp_path: Path, cli: Cli
) -> None:
    folder = make_checkpoint(**SMALL, shards=3).write(tmp_path / "checkpoint")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    code, out, err = cli(folder, "--out", tmp_path / "b", "--type", "q8_0")
    assert (code, out) == (65, "")
    assert expected in err
    assert err.startswith("edge-convert: ")
    assert err.rstrip("\n").isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_what_is_no_checkpoint_folder_exits_65(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "m.gguf").touch()
    for path, fault in (
        (tmp_path / "none", "no such checkpoint folder"),
        (checkpoint / "model.safetensors", "not a checkpoint folder"),
        (tmp_path / "m.gguf", "a GGUF file is already converted"),
    ):
        code, _, err = cli(path, "--out", tmp_path / "b", "--type", "q8_0")
        assert (code, err.startswith("edge-convert: ")) == (65, True)
        assert f"{path}: " in err
        assert fault in err


def test_json_with_a_byte_order_mark_is_read(checkpoint: Path, cli: Cli) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_bytes(b"\xef\xbb\xbf" + (checkpoint / name).read_bytes())
    assert cli(checkpoint, "--type", "q8_0", "--dry-run")[0] == 0


def test_a_folder_that_cannot_be_written_exits_1_at_once(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").write_text("")
    for out, reason in ((tmp_path / "file" / "b", "Not a directory"), (Path("/proc/b"), "No such file or directory")):
        # The disk is not asked last of all, when everything has been measured.
        code, _, err = cli(tmp_path / "none", "--out", out, "--type", "q4_0")
        assert (code, err) == (1, f"edge-convert: {out}: cannot be written there: {reason}\n")


def test_the_version_is_that_of_the_project_and_help_names_the_sub_commands(cli: Cli) -> None:
    code, out, err = cli("--version")
    assert (code, out.startswith(f"edge-convert {__version__} (commit "), out.count("\n"), err) == (0, True, 1, "")
    text = " ".join(cli("--help")[1].split()).replace("- ", "-")
    assert all(f"`edge-convert {name} " in text for name in ("evaluate", "verify"))


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


@pytest.fixture(scope="module")
def slow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes seconds as iq4_nl."""
    return make_checkpoint(layers=1, hidden=1024, feed_forward=8192).write(tmp_path_factory.mktemp("slow") / "c")


def start_and_wait_for_half_a_model(checkpoint: Path, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    # A signal that the test run ignores would be ignored by the child too.
    program = (
        "import runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "runpy.run_module('convert', run_name='__main__')\n"
    )
    words = ("--type", "iq4_nl", "--name", "n", "--licence", "mit")
    arguments = [sys.executable, "-c", program, *command(checkpoint, "--out", folder / "b", *words)[3:]]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    half = ".b.partial/model.gguf"
    wait_until(lambda: process.poll() is not None or any(path.stat().st_size for path in folder.glob(half)), half)
    assert process.poll() is None, process.communicate()
    return process


# test_canaries has SIGTERM.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_exits_1_and_leaves_nothing(slow_checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start_and_wait_for_half_a_model(slow_checkpoint, tmp_path / "out")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, f"edge-convert: stopped by {number.name}; no partial files are left\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kill_leaves_no_bundle_the_next_clears_up(slow_checkpoint: Path, checkpoint: Path, tmp_path: Path) -> None:
    process = start_and_wait_for_half_a_model(slow_checkpoint, tmp_path / "out")
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "out" / "b").exists()
    convert(checkpoint, tmp_path / "out" / "b")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peaks = []
    for name, vocab_size in (("small", 5_000), ("large", 17_000)):
        make_checkpoint(layers=1, hidden=1024, vocab_size=vocab_size, tied=False).write(tmp_path / name)
        arguments = command(tmp_path / name, "--out", tmp_path / f"{name}.bundle", "--type", "q8_0")
        arguments += ["--json", "--no-canaries"]
        result = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True)
        peaks.append(json.loads(result.stdout)["peak_rss_bytes"])
    assert peaks[1] < peaks[0] + 15_000_000
    assert peaks[1] < 600_000_000


@pytest.mark.parametrize("words", [["--json"], ["--help"]])
def test_output_that_cannot_be_written_exits_1(words: list[str], checkpoint: Path) -> None:
    arguments = command(checkpoint, "--type", "q8_0", "--dry-run", *words)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "edge-convert: standard output: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_bytes_do_not_depend_on_user_and_place(tmp_path: Path) -> None:
    files = make_checkpoint(layers=1)
    files.more["README.md"] = "---\nlicense: apache-2.0\n---\nPrüfstand\n"
    first, second = (files.write(tmp_path / name) for name in ("Qwen2.5-0.5B-Instruct", "elsewhere/ünd"))
    (tmp_path / "home").mkdir()
    assert run(first, "--out", tmp_path / "one", "--type", "q4_k_m", "--name", "pump") == 0
    changes = {"LC_ALL": "tr_TR.UTF-8", "LANG": "C", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    # Characters that the encoding of the terminal lacks are escaped.
    changes |= {"HOME": str(tmp_path / "home"), "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "20"}
    words = command(second, "--out", "../two", "--type", "q4_k_m", "--name", "pump", "--no-canaries")
    environment = os.environ | changes
    subprocess.run(words, cwd=tmp_path / "home", env=environment, umask=0o077, stdout=subprocess.DEVNULL, check=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
