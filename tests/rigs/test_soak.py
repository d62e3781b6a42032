"""rigs.soak sees what it watches for; `python -m rigs.soak` is the long form."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rigs.soak.__main__ import main
from rigs.soak.samples import ProcessSample, Sample
from rigs.soak.verdict import verdict

PROCESS = ProcessSample(pid=7, resident_mib=50.0, threads=8, files=16)
COUNTS = {"asked": 2000, "answered": 2000, "lost": 0, "wrong": 0, "duplicates": 0, "inferred_again": 0}


def samples(*, last: ProcessSample = PROCESS, count: int = 60, **others: Any) -> list[Sample]:
    """A run of one sample a second, whose second half is as given."""
    run = [
        Sample(
            at_s=float(number), answered=100 * number, unanswered=2, agent=PROCESS, worker=PROCESS, state_bytes=1000,
            log_bytes=10 * number,
        )
        for number in range(count)
    ]  # fmt: skip
    half = count // 2
    return [*run[:half], *(replace(one, agent=last, **others) for one in run[half:])]


def failing(run: list[Sample], **counts: int) -> list[str]:
    return [check.name for check in verdict(run, COUNTS | counts) if check.holds is False]


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (samples(), []),
        (samples(last=replace(PROCESS, resident_mib=53.0)), ["agent, resident"]),
        (samples(last=replace(PROCESS, threads=9)), ["agent, threads"]),
        (samples(last=replace(PROCESS, files=17)), ["agent, files"]),
        (samples(state_bytes=100_000_000), ["state folder"]),
        (samples(worker=replace(PROCESS, pid=8)), ["workers lost"]),
    ],
)
def test_what_grows_fails_and_a_run_without_faults_holds_every_limit(run: list[Sample], names: list[str]) -> None:
    assert failing(run) == names


def test_growth_is_not_judged_after_too_few_requests() -> None:
    checks = {check.name: check for check in verdict(samples(count=12), COUNTS)}
    assert checks["agent, growth"].holds is None


@pytest.mark.parametrize("name", ["lost", "wrong", "duplicates", "inferred_again", "torn streams", "exit code"])
def test_what_is_lost_or_wrong_fails(name: str) -> None:
    assert failing(samples(), **{name: 1}) == [name]


@pytest.mark.usefixtures("require_mosquitto")
def test_the_short_form_answers_all_requests_of_a_factory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "echo", "--requests", "100", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    assert "resident_mib" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8")
    assert "ok    lost" in capsys.readouterr().out
