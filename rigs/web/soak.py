"""A page that is left open: by default an hour at 24 times the rate of a plant, which is a day.

Memory of the process, and heap, nodes and listeners of two tabs must be flat. The journal begins with more than it may
hold, and must be within its bounds at the end. Exit code 1 if a limit does not hold.
"""

import argparse
import datetime as dt
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page

from rigs.machine import parser_of, require
from rigs.web.load import simulated
from rigs.web.measuring import MIB, ProcessMeter, Target, at_most, growth, heap_mib, none_of, size_bytes, verdict
from rigs.web.site import SimulatedSite
from tests.helpers.browser import chromium, complaints_of, tab
from tests.helpers.page import PageProcess
from tests.helpers.processes import Mosquitto, free_port

TIMES, DAY_MINUTES = 24, 60.0
BOARDS, RATE, INTERVAL_S = 20, 10.0, 10.0
PLAYED = ("press-01", "pump-01", "oven-01")
SAMPLE_S = 5.0
MAX_GROWTH = 0.05
# What is rounded away by an allocator is no leak.
MAX_HEAP_GROWTH, SLACK_MIB = 0.10, 2.0
MAX_JOURNAL_MB, MAX_JOURNAL_DAYS = 50.0, 90


def main(words: list[str]) -> int:
    parser = parser_of("rigs.web soak", __doc__)
    parser.add_argument("--minutes", type=float, default=DAY_MINUTES, help="default: %(default)s, which are a day")
    options: argparse.Namespace = parser.parse_args(words)
    require({"mosquitto": "mosquitto", "chromium": "chromium"})
    rate, interval_s = str(RATE * TIMES), str(INTERVAL_S / TIMES)
    print(f"{options.minutes:g} minutes at {TIMES} × the rate: {options.minutes * TIMES / 60:.1f} hours", flush=True)
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name), free_port()) as broker,
        simulated(broker.port, BOARDS, float(rate), "--interval", interval_s, "--audits", "0.02"),
        closing(SimulatedSite(broker.port, PLAYED, health_interval_s=INTERVAL_S / TIMES)) as played,
    ):
        folder = Path(name)
        page = PageProcess(folder, broker.port)
        written_mib, old = overfill(page.data)
        with page, chromium() as browser, tab(browser) as boards, tab(browser) as answers:
            played.start()
            boards.goto(f"{page.url}/#/boards")
            answers.goto(f"{page.url}/#/answers")
            meter = ProcessMeter(page.pid)
            tabs = [TabMeter(one) for one in (boards, answers)]
            began = time.monotonic()
            meter.restart(began)
            alarms = 0
            while (passed_s := time.monotonic() - began) < 60 * options.minutes:
                # An alarm of four minutes, eight times an hour, is at this rate one every 18 s that lasts 10 s.
                play(played, alarms)
                alarms += 1
                meter.sample()
                for one in tabs:
                    one.sample()
                if alarms % 12 == 1:
                    print(
                        f"{passed_s:6.0f} s  process {meter.samples_mib[-1]:.1f} MiB, {tabs[0]}; {tabs[1]}", flush=True
                    )
                boards.wait_for_timeout(1000 * SAMPLE_S)
            share = meter.share_of_core(time.monotonic())
            complaints = [*complaints_of(boards), *complaints_of(answers)]
            journal_mib, left = size_bytes(page.data) / MIB, [path for path in old if path.exists()]
            entries = len(page.get("journal", limit=1000)["journal"])
        errors = [line for line in page.log.splitlines() if line.startswith(("ERROR", "Traceback"))]
    print(f"journal: {written_mib:.1f} MiB before the start, {journal_mib:.1f} MiB at the end, {entries} entries shown")
    targets = [
        flat("process, memory", meter.samples_mib, MAX_GROWTH, "MiB"),
        at_most("process, CPU", 100 * share, 25, "% of a core"),
        *(
            flat(f"tab of {name}, {what}", values, MAX_HEAP_GROWTH, unit)
            for name, one in zip(("boards", "answers"), tabs, strict=True)
            for what, unit, values in one.series()
        ),
        at_most("journal", journal_mib * MIB / 1e6, MAX_JOURNAL_MB, "MB"),
        none_of("days of the journal that are too old", [path.name for path in left]),
        Target("entries of this run", str(entries), "more than 0", entries > 0),
        none_of("complaints in the console", complaints),
        none_of("errors in the log", errors),
    ]
    return verdict(targets)


class TabMeter:
    """What a tab holds after a collection of garbage."""

    def __init__(self, shown: Page) -> None:
        self._session: CDPSession = shown.context.new_cdp_session(shown)
        self._session.send("Performance.enable")
        self.heap: list[float] = []
        self.nodes: list[float] = []
        self.listeners: list[float] = []

    def sample(self) -> None:
        self.heap.append(heap_mib(self._session))
        metrics: Any = {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}
        self.nodes.append(metrics["Nodes"])
        self.listeners.append(metrics["JSEventListeners"])

    def series(self) -> list[tuple[str, str, list[float]]]:
        return [("heap", "MiB", self.heap), ("nodes", "", self.nodes), ("listeners", "", self.listeners)]

    def __str__(self) -> str:
        return f"tab {self.heap[-1]:.1f} MiB, {self.nodes[-1]:.0f} nodes"


def play(played: SimulatedSite, number: int) -> None:
    """Levels and alarms that come and go, so that lists and journal change."""
    for turn, device in enumerate(played.devices):
        played.health(device)
        if (number + turn) % 4 == 0:
            played.alarm(device, "overheating")
            played.event(device)
        if (number + turn) % 4 == 2:
            played.end_alarm(device, "overheating")


def flat(name: str, samples: Sequence[float], limit: float, unit: str) -> Target:
    grown = growth(samples)
    text = f"{statistics.median(samples):.1f} {unit}, {grown:+.1%}".replace(" ,", ",")
    slack = SLACK_MIB if unit else 50
    return Target(name, text, f"at most {limit:+.0%}", grown <= limit or grown * statistics.median(samples) <= slack)


def overfill(data: Path) -> tuple[float, list[Path]]:
    """Makes a journal of 120 days and 60 MiB, as an earlier process would have left it.

    Returns its size and those files that are too old.
    """
    data.mkdir(parents=True)
    today = dt.datetime.now(dt.UTC).date()
    old = []
    for ago in range(1, 121):
        day = today - dt.timedelta(days=ago)
        path = data / f"{day}-0001.jsonl"
        at = dt.datetime.combine(day, dt.time(12), dt.UTC).timestamp()
        entry = {
            "at": at,
            "device": "press-01",
            "what": "alarm",
            "name": "overheating",
            "text": "x" * 200,
            "severity": "critical",
        }
        line = json.dumps({**entry, "by": None, "until": None}) + "\n"
        path.write_text(line * (MIB // 2 // len(line)), encoding="utf-8")
        if ago > MAX_JOURNAL_DAYS:
            old.append(path)
    return size_bytes(data) / MIB, old
