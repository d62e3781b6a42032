"""200 boards, 500 answers a second through a real mosquitto, 20 viewers: 19 that poll as the page does, and a tab.

Measured is the time from the publication of a value until the tab shows it, what the page's process takes, and whether
a list moves under the pointer. Exit code 1 if a target is missed.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from playwright.sync_api import Page

from rigs.machine import parser_of, require
from rigs.web.measuring import ProcessMeter, Target, at_most, none_of, verdict
from rigs.web.site import SimulatedSite
from tests.helpers.browser import chromium, complaints_of, tab
from tests.helpers.page import PageProcess
from tests.helpers.processes import Mosquitto, free_port

MAX_AGE_S, MAX_SHARE_OF_CORE, MAX_MIB = 2.0, 0.25, 150.0
# Played by this process, which looks for their values in the tab, and changes the order by their levels.
PLAYED = ("press-01", "pump-01", "oven-01")
WARM_UP_S = 15.0
# The time at which a text appears, without asking the tab again and again.
APPEARS = """(text) => new Promise((done) => {
  const look = () => document.body.textContent.includes(text) && (observer.disconnect(), done(performance.now()));
  const observer = new MutationObserver(look);
  observer.observe(document.body, {subtree: true, childList: true, characterData: true});
  look();
})"""
UNDER_POINTER = """([x, y]) => {
  const row = document.elementFromPoint(x, y)?.closest("li, tr, article");
  return row && [(row.querySelector("th, .answer") ?? row).textContent, Math.round(row.getBoundingClientRect().top)];
}"""


def main(words: list[str]) -> int:
    parser = parser_of("rigs.web load", __doc__)
    parser.add_argument("--boards", type=int, default=200)
    parser.add_argument("--rate", type=float, default=500.0, help="answers a second (default: %(default)s)")
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=90.0, help="of measuring (default: %(default)s)")
    options: argparse.Namespace = parser.parse_args(words)
    require({"mosquitto": "mosquitto", "chromium": "chromium"})
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name), free_port()) as broker,
        simulated(broker.port, options.boards, options.rate),
        closing(SimulatedSite(broker.port, PLAYED)) as played,
        PageProcess(Path(name), broker.port) as page,
        viewers(page.port, options.viewers - 1) as polls,
        chromium() as browser,
        tab(browser) as shown,
    ):
        played.start()
        for device in PLAYED:
            played.alarm(device, "overheating")
        shown.goto(f"{page.url}/#/boards")
        shown.wait_for_timeout(1000 * WARM_UP_S)
        meter = ProcessMeter(page.pid)
        meter.restart(time.monotonic())
        ages: list[float] = []
        began = time.monotonic()
        while time.monotonic() - began < options.seconds:
            ages.append(seconds_until_shown(shown, played, number=1000 + len(ages)))
            meter.sample()
            for device in PLAYED[1:]:
                played.health(device)
            # The pauses vary, to be out of step with the page's polls.
            shown.wait_for_timeout(300 + 137 * (len(ages) % 7))
        share = meter.share_of_core(time.monotonic())
        print(
            f"{len(ages)} values, from published until shown: median {statistics.median(ages):.2f} s; "
            f"a poll took {1000 * statistics.median(polls.seconds):.1f} ms, at most {1000 * max(polls.seconds):.0f}; "
            f"process {100 * share:.1f} % of a core, {max(meter.samples_mib):.1f} MiB",
            flush=True,
        )
        moved = [*moves(shown, played), *moves_of_answers(shown, page.url)]
        boards = len(page.get("changes")["order"])
        complaints = complaints_of(shown)
    return verdict(
        [
            Target("boards", str(boards), str(options.boards), boards == options.boards),
            at_most("age of the page", max(ages), MAX_AGE_S, "s", 2),
            at_most("process, CPU", 100 * share, 100 * MAX_SHARE_OF_CORE, "% of a core"),
            at_most("process, memory", max(meter.samples_mib), MAX_MIB, "MiB"),
            none_of("polls that failed", polls.faults),
            none_of("moved under the pointer", moved),
            none_of("complaints in the console", complaints),
        ]
    )


@contextmanager
def simulated(port: int, boards: int, rate: float, *words: str) -> Iterator[None]:
    """Boards in a process of their own, except those that this process plays."""
    command = [sys.executable, "-m", "rigs.web.site", str(port), "--boards", str(boards), "--rate", str(rate)]
    command += ["--quiet", ",".join(PLAYED), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()


class Polls:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.faults: list[str] = []


@contextmanager
def viewers(port: int, count: int) -> Iterator[Polls]:
    """Viewers that poll the changes once a second, each over its own connection, as tabs do."""
    polls, is_over = Polls(), threading.Event()

    def view(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        cursor = ""
        is_over.wait(number / max(1, count))
        while not is_over.wait(1.0):
            began = time.monotonic()
            try:
                connection.request("GET", f"/api/v1/changes{cursor}")
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    polls.faults.append(f"{answer.status}: {text[:200]!r}")
                    continue
                cursor = f"?after={json.loads(text)['cursor']}"
                polls.seconds.append(time.monotonic() - began)
            except OSError as error:
                polls.faults.append(repr(error))
                connection.close()
        connection.close()

    threads = [threading.Thread(target=view, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield polls
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def seconds_until_shown(shown: Page, played: SimulatedSite, number: int) -> float:
    """The time from the publication of a queue of this depth until the tab shows it."""
    began = time.monotonic()
    played.health(PLAYED[0], queue={"depth": number, "capacity": 64}, overall="critical", reasons=["overheating"])
    shown.evaluate(APPEARS, f"{number}/64")
    return time.monotonic() - began


def moves(shown: Page, played: SimulatedSite) -> Sequence[str]:
    """Changes the order while the pointer rests on the second board; returns what is then under it, if that changed."""
    shown.bring_to_front()
    row = shown.locator("main li, main tr").filter(has_text=PLAYED[1]).first
    box = row.bounding_box()
    assert box is not None, f"{PLAYED[1]} is not shown"
    at = [box["x"] + box["width"] / 3, box["y"] + min(20, box["height"] / 2)]
    shown.mouse.move(*at)
    return list(_moves_at(shown, at, "boards", lambda: played.state(PLAYED[0], "stopped")))


def moves_of_answers(shown: Page, url: str) -> Sequence[str]:
    shown.mouse.move(0, 0)
    shown.goto(f"{url}/#/answers")
    row = shown.locator("main li, main tr").last
    row.wait_for()
    shown.wait_for_timeout(2000)
    box = row.bounding_box()
    assert box is not None
    at = [box["x"] + box["width"] / 3, min(box["y"] + box["height"] / 2, 780)]
    shown.mouse.move(*at)
    return list(_moves_at(shown, at, "answers", lambda: None))


def _moves_at(shown: Page, at: Sequence[float], what: str, change: object) -> Iterator[str]:
    before = shown.evaluate(UNDER_POINTER, at)
    assert callable(change)
    change()
    for _ in range(20):
        shown.wait_for_timeout(250)
        if (now := shown.evaluate(UNDER_POINTER, at)) != before:
            yield f"{what}: {before} became {now}"
            return
