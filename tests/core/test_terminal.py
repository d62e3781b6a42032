import sys

import pytest

from edge_agent.core.terminal import StatusLine, aligned, fail


def test_a_log_gets_a_line_per_phase(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StatusLine()
    for text in ("the worker starts", "tasks: round 1", "tasks: round 2", "decode: round 1"):
        progress.say(text)
    progress.clear()
    assert capsys.readouterr().err == "the worker starts\ntasks: round 1\ndecode: round 1\n"


def test_a_terminal_gets_one_line_that_is_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = StatusLine()
    progress.say("tasks: round 1")
    progress.say("tasks: round 2")
    progress.clear()
    assert capsys.readouterr().err == "\r\x1b[Ktasks: round 1\r\x1b[Ktasks: round 2\r\x1b[K"


def test_a_failure_is_one_printable_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("no \x1b[2J file") == 1
    assert capsys.readouterr().err == "edge-agent: no \\x1b[2J file\n"


def test_columns_are_aligned_names_left_and_numbers_right() -> None:
    assert aligned([("task", "ms"), ("a", "1234.5")]) == ["task      ms", "a     1234.5"]
