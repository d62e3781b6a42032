"""`edge-agent history` over a journal as the page writes it."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import EdgeAgent

NIGHT = 1_793_000_000.0
WARNING = {"device": "oven-1", "name": "disk-low"}
SWITCH = {"device": "oven-1", "name": "model-switched"}


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def journal(folder: Path, *entries: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        whole = {"device": None, "name": None, "text": None, "severity": None, "by": None, "until": None, **entry}
        day = time.strftime("%Y-%m-%d", time.gmtime(entry.get("until") or entry["at"]))
        with (folder / f"{day}-0001.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")
    return folder


def test_it_tells_what_happened_and_who_did_it(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    folder = journal(
        tmp_path,
        {"at": NIGHT, "what": "page-was-off", "until": NIGHT + 60},
        {"at": NIGHT + 61, "what": "level", "device": "press-04", "name": "offline", "text": "connection-lost"},
        {**WARNING, "at": NIGHT + 62, "what": "alarm", "text": "3 MB", "severity": "warning"},
        {**WARNING, "at": NIGHT + 63, "what": "alarm-end"},
        {**SWITCH, "at": NIGHT + 64, "what": "event", "by": "ana", "text": "how: switch"},
        {"at": NIGHT + 65, "what": "broker-lost", "name": "b:1883", "text": "refused"},
        {"at": NIGHT + 66, "what": "event", "device": "oven-1", "name": "\x1b[2J"},
        {"at": NIGHT + 200_000, "what": "page-started"},
    )
    with (folder / "2026-10-26-0001.jsonl").open("ab") as file:
        file.write(b'{"at":1e300}\n[]\n{"what": "lev')
    words = ("history", folder, "--since", "2026-10-26T07:00", "--until", "2026-10-27")
    done = edge_agent(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2026-10-26 07:33:20  –         nothing was recorded until 2026-10-26 07:34:20",
        "2026-10-26 07:34:21  press-04  is offline: connection-lost",
        "2026-10-26 07:34:22  oven-1    alarm disk-low, warning: 3 MB",
        "2026-10-26 07:34:23  oven-1    alarm disk-low has ended",
        "2026-10-26 07:34:24  oven-1    model-switched by ana: how: switch",
        "2026-10-26 07:34:25  –         broker-lost b:1883: refused",
        "2026-10-26 07:34:26  oven-1    \\x1b[2J",
    ]
    of_board = edge_agent(*words, "--device", "press-04", "--json").document["entries"]
    assert [entry["what"] for entry in of_board] == ["page-was-off", "level", "broker-lost"]


def test_it_reads_the_folder_of_the_page_and_the_last_day_by_itself(
    tmp_path: Path, edge_agent: EdgeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))
    done = edge_agent("history")
    assert (done.returncode, "holds no journal" in done.stderr) == (1, True)
    journal(tmp_path / "edge-agent/web/hall1", {"at": NIGHT, "what": "page-started"})
    assert edge_agent("history").stdout == "nothing has happened\n"
    journal(tmp_path / "edge-agent/web/hall1", {"at": time.time() - 60, "what": "page-started"})
    assert edge_agent("history").stdout.endswith("–  page-started\n")
    assert edge_agent("history", "--since", "yesterday").returncode == 64
