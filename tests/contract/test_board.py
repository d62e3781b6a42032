"""What health says of a board, over a real broker; the board is a recorded one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.boards.trees import load
from tests.helpers.site import Site, StartSite


def start(start_site: StartSite, root: Path) -> Site:
    return start_site("5", more=f'[board]\nroot = "{root}"\n[health]\ninterval_s = 0.5\n')


def health(site: Site, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    document: dict[str, Any] = site.client.wait_for(f"{site.base}/health", fits).json
    return document


def is_read(document: dict[str, Any]) -> bool:
    return document["thermal"]["soc_c"] is not None and document["overall"] != "critical"


def test_a_board_that_gets_hot_refuses_the_least_urgent_and_says_so(start_site: StartSite, tmp_path: Path) -> None:
    root = tmp_path / "board"
    load("pi5").write(root)
    site = start(start_site, root)
    assert health(site, is_read)["governor"] == {"level": "normal", "limits": {}, "reason": None}
    assert site.ask("generate", {"input": "cool", "priority": 9})["degraded"] == []

    (root / "sys/class/thermal/thermal_zone0/temp").write_text("79150\n")
    document = health(site, lambda document: document["governor"]["limits"].get("lowest_priority") == 5)
    assert document["governor"]["level"] == "hot"
    assert "limit of 80 °C" in document["governor"]["reason"]
    refused = site.ask("generate", {"input": "hot", "priority": 6})
    assert (refused["status"], refused["error"]["code"]) == ("busy", "overheated")
    urgent = site.ask("generate", {"input": "hot but urgent", "priority": 0})
    assert (urgent["status"], urgent["degraded"]) == ("ok", ["overheated"])
    health(site, lambda document: "overheating" in document["reasons"])
    assert site.client.on(f"{site.base}/alarm/overheating")[-1].json["value"] > 79


def test_a_sensor_that_hangs_is_named_and_stops_neither_health_nor_answers(
    start_site: StartSite, tmp_path: Path
) -> None:
    root = tmp_path / "board"
    load("rk3588-mainline").write(root)
    power = root / "sys/class/hwmon/hwmon8/power1_input"
    power.unlink()
    os.mkfifo(power)
    site = start(start_site, root)
    document = health(site, lambda document: is_read(document) and document["reasons"] == ["sensor-errors"])
    assert document["sensor_errors"] == {"ina226 (hwmon8)": "hangs for more than 2 s"}
    assert document["overall"] == "degraded"
    assert (document["thermal"]["soc_c"], document["thermal"]["headroom_c"]) == (80.384, 4.6)
    assert document["power"]["watts"] is None
    assert site.ask("generate", "still there?")["status"] == "ok"
    assert site.agent.stop() == 0
