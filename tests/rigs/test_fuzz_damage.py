"""A few of what `python -m rigs.fuzz` does by the thousand, always the same ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rigs.fuzz import prompts
from rigs.fuzz.children import ENDED, FAILED, HUNG, RAISED, Outcome, tried

ROOT = Path(__file__).parents[2]


def counts(driver: str, *words: str | Path) -> dict[str, int]:
    """How many of each outcome. In an interpreter of its own: what forks must not come after a test that ran OpenMP."""
    command = [sys.executable, "-m", f"rigs.fuzz.{driver}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = done.stdout.splitlines()[-1].partition(" cases: ")[2]
    return {outcome: int(count) for count, outcome in (one.split(" ", 1) for one in found.split(", "))}


def test_damaged_checkpoints_are_refused_or_converted() -> None:
    assert {"refused", "converted"} <= counts("safetensors", "--count", "12").keys()


def test_damaged_bundles_are_refused_or_answer() -> None:
    assert {"refused", "answered"} <= counts("manifests", "--count", "6").keys()


def test_damaged_configurations_are_refused_or_good() -> None:
    assert {"refused", "good"} <= counts("configurations", "--count", "10", "--first", "30").keys()


def test_damaged_schemas_are_refused_or_kept_to(demo_bundle: Path) -> None:
    assert {"refused", "answered"} <= counts("schemas", demo_bundle / "model.gguf", "--count", "12").keys()


def test_special_tokens_in_a_conversation_are_text(demo_bundle: Path) -> None:
    assert {outcome for _, (outcome, _) in prompts.outcomes(demo_bundle / "model.gguf", 150)} == {"text"}


def die() -> Outcome:
    import ctypes  # noqa: PLC0415 - to die of

    ctypes.string_at(0)
    return "unharmed", ""


def loop() -> Outcome:
    while True:
        pass


def grow() -> Outcome:
    return "unharmed", str(len(bytearray(1 << 33)))


@pytest.mark.parametrize(("work", "outcome"), [(die, ENDED), (loop, HUNG), (grow, RAISED)])
def test_what_may_not_be_is_told(work: object, outcome: str) -> None:
    found, why = tried(work, cpu_s=1, memory_bytes=1 << 28)  # type: ignore[arg-type]
    assert (found, bool(why)) == (outcome, True)


def test_what_is_found_is_told() -> None:
    assert tried(lambda: (FAILED, "why"), cpu_s=1, memory_bytes=1 << 28) == (FAILED, "why")
