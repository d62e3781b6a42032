"""`edge-agent history` over a journal as the page writes it."""

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.topics import Topics
from edge_agent.status.alarms import ALARMS, Alarms
from edge_agent.web.journal import Entry, Journal
from tests.helpers.processes import EdgeAgent

NIGHT = 1_793_000_000.0


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def test_it_tells_what_happened_and_who_did_it(
    tmp_path: Path, edge_agent: EdgeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    for entry in (
        Entry(at=NIGHT, what="page-was-off", until=NIGHT + 1),
        Entry(at=NIGHT + 1, what="level", device="press-04", name="offline", text="connection-lost"),
        Entry(at=NIGHT + 2, what="alarm", device="oven-1", name="disk-low", text="3 MB", severity="warning"),
        Entry(at=NIGHT + 3, what="alarm-end", device="oven-1", name="disk-low"),
        Entry(at=NIGHT + 3, what="alarm-void", device="press-04", name="disk-low"),
        Entry(at=NIGHT + 4, what="event", device="oven-1", name="model-switched", by="ana", text="how: switch"),
        Entry(at=NIGHT + 5, what="broker-lost", name="b:1883", text="refused"),
        Entry(at=NIGHT + 6, what="event", device="oven-1", name="\x1b[2J"),
        Entry(at=NIGHT + 7, what="feedback", device="oven-1", name="triage", text="normal", by="ana"),
    ):
        journal.add(entry)
    journal.add(Entry(at=NIGHT + 200_000, what="page-started"))
    with next(tmp_path.glob("2026-10-26-*")).open("ab") as file:
        for line in (
            '{"at":"x","what":"level"}',
            '{"at":1793000000,"what":"page-was-off","until":1e300}',
            "[" * 100_000,
        ):
            file.write(f"\n{line}".encode())
        file.write(b'\n{"at":1793000000,"what":"level","device":["a"]}\n{"what": "lev')
    words = ("history", tmp_path, "--since", "2026-10-26T07:00", "--until", "2026-10-27")
    done = edge_agent(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2026-10-26 07:33:20  –         nothing was recorded until 2026-10-26 07:33:21",
        "2026-10-26 07:33:21  press-04  is offline: connection-lost",
        "2026-10-26 07:33:22  oven-1    alarm disk-low, warning: 3 MB",
        "2026-10-26 07:33:23  oven-1    alarm disk-low has ended",
        "2026-10-26 07:33:23  press-04  alarm disk-low no longer counts, because its board is gone or has reconnected",
        "2026-10-26 07:33:24  oven-1    model-switched by ana: how: switch",
        "2026-10-26 07:33:25  –         broker-lost b:1883: refused",
        "2026-10-26 07:33:26  oven-1    \\x1b[2J",
    ]
    assert edge_agent("history", tmp_path, "--until", "2026-10-27").stdout == done.stdout
    of_board = edge_agent(*words, "--device", "press-04", "--json").document["entries"]
    assert [entry["what"] for entry in of_board] == ["page-was-off", "level", "alarm-void", "broker-lost"]
    monkeypatch.setenv("TZ", "America/New_York")
    assert edge_agent("history", tmp_path, "--since", "9999-12-31T23:59").stdout == "nothing has happened\n"


def test_the_sample_in_the_documentation_is_what_it_prints(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    page = Path("docs/monitoring.md").read_text("utf-8")
    sample = re.search(r"^2026-11-29 23:12:41 .*?(?=^```)", page, re.MULTILINE | re.DOTALL)
    assert sample is not None
    journal = Journal(tmp_path)
    at = datetime(2026, 11, 29, 23, 12, 41, tzinfo=UTC).timestamp()
    why = "connection-lost; last health 17 s ago"
    journal.add(Entry(at=at, what="level", device="press-04", name="offline", text=why))
    text = "reason: the board lost power or was reset"
    journal.add(Entry(at=at + 80, what="event", device="press-04", name="agent-restarted", text=text))
    journal.add(Entry(at=at + 81, what="level", device="press-04", name="ok"))
    text = "old pumps-1 (version 1), new pumps-2 (version 2)"
    journal.add(Entry(at=at + 11856, what="event", device="oven-1", name="model-switched", text=text, by="ana@pc-7"))
    alarms = Alarms(Topics("edgeai/v1", "hall1", "oven-1"), lambda _: None)
    for _ in range(3):
        alarms.on_worker_ended("killed by SIGKILL", 0.0)
    finding = next(rule for rule in ALARMS if rule.name == "worker-crash-loop").find(alarms)
    assert finding is not None
    crash: dict[str, Any] = {"device": "oven-1", "name": "worker-crash-loop"}
    journal.add(Entry(at=at + 11949, what="alarm", text=finding.message, severity=finding.severity.text, **crash))
    journal.add(Entry(at=at + 12688, what="alarm-end", **crash))
    assert edge_agent("history", tmp_path, "--since", "2026-11-29").stdout == sample[0]


def test_it_reads_the_folder_of_the_page_and_the_last_day_by_itself(
    tmp_path: Path, edge_agent: EdgeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))
    done = edge_agent("history")
    assert (done.returncode, "holds no journal" in done.stderr) == (1, True)
    journal = Journal(tmp_path / "edge-agent/web/hall1")
    journal.folder.mkdir(parents=True)
    journal.add(Entry(at=NIGHT, what="page-started"))
    assert edge_agent("history").stdout == "nothing has happened\n"
    journal.add(Entry(at=time.time() - 60, what="page-started"))
    assert edge_agent("history").stdout.endswith("–  page-started\n")
    assert edge_agent("history", "--since", "yesterday").returncode == 64


@pytest.mark.parametrize("minutes", [-2, 2])
def test_a_time_alone_is_the_latest_one(edge_agent: EdgeAgent, tmp_path: Path, minutes: int) -> None:
    now = time.time()
    journal = Journal(tmp_path)
    for hours in (26, 22, 0.01):
        journal.add(Entry(at=now - hours * 3600, what="level", device=f"h{hours}", name="ok"))
    asked = edge_agent("history", tmp_path, "--since", time.strftime("%H:%M", time.localtime(now + minutes * 60)))
    heard = [device for device in ("h26", "h22", "h0.01") if device in asked.stdout]
    assert heard == (["h0.01"] if minutes < 0 else ["h22", "h0.01"])


def test_entries_of_several_sites_name_theirs(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    for number, site in enumerate(("hall2", "hall1")):
        (tmp_path / site).mkdir()
        Journal(tmp_path / site).add(Entry(at=NIGHT + number, what="level", device="press-04", name="ok"))
    words = ("history", tmp_path, "--since", "2026-10-26")
    assert edge_agent(*words).stdout.splitlines() == [
        "2026-10-26 07:33:20  hall2  press-04  is ok",
        "2026-10-26 07:33:21  hall1  press-04  is ok",
    ]
    assert [entry["site"] for entry in edge_agent(*words, "--json").document["entries"]] == ["hall2", "hall1"]


def test_a_board_of_which_there_is_no_entry_is_said(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    Journal(tmp_path).add(Entry(at=NIGHT, what="level", device="press-04", name="ok"))
    done = edge_agent("history", tmp_path, "--device", "pres-04")
    assert (done.returncode, 'has no entry of a board "pres-04"' in done.stderr) == (1, True)
    assert edge_agent("history", tmp_path, "--device", "press-04").stdout == "nothing has happened\n"
