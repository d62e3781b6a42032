"""However a run ended, the next one says so."""

import json
from pathlib import Path

import pytest

from edge_agent import run_note
from edge_agent.core.clock import Moment
from edge_agent.run_note import FILE, STOPPED, RunNote


def test_the_first_run_and_one_after_a_stop_have_nothing_to_say(tmp_path: Path) -> None:
    note = RunNote(tmp_path / "state")
    assert note.begin() is None
    note.set_end(STOPPED)
    assert RunNote(tmp_path / "state").begin() is None


def test_a_run_that_noted_no_end_was_killed_or_without_power_depending_on_the_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunNote(tmp_path).begin()
    assert RunNote(tmp_path).begin() == "killed"
    monkeypatch.setattr(run_note, "moment", lambda _: Moment(boot="another", monotonic_s=0.0, wall_s=0.0))
    assert RunNote(tmp_path).begin() == "the board lost power or was reset"
    assert RunNote(tmp_path).begin() == "killed"


def test_a_part_that_hangs_is_the_reason_unless_it_goes_on(tmp_path: Path) -> None:
    note = RunNote(tmp_path)
    note.begin()
    note.set_end("the watchdog was not fed")
    assert RunNote(tmp_path).begin() == "the watchdog was not fed"
    note.set_end("the watchdog was not fed")
    note.set_end(None)
    assert RunNote(tmp_path).begin() == "killed"


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", json.dumps({"boot": 7, "end": None}).encode()])
def test_a_damaged_note_says_nothing_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert RunNote(tmp_path).begin() is None
    assert RunNote(tmp_path).begin() == "killed"


def test_a_disk_that_fails_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    note = RunNote(tmp_path / "file")
    assert note.begin() is None
    note.set_end(STOPPED)
