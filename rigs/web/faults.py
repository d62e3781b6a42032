"""What the page says when something fails: a bar within 5 s, no figure that looks current, each case in words.

Exit code 1 unless each case is told in time. Cases with RabbitMQ need Debian's rabbitmq-server and are named as left
out without it.
"""

import argparse
import datetime as dt
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

from rigs.machine import SEARCH_PATH, parser_of, require
from rigs.pool.cluster import Cluster
from rigs.web.measuring import Target, none_of, verdict
from rigs.web.stage import staged
from tests.helpers.browser import chromium, complaints_of, shown, tab
from tests.helpers.page import PageProcess
from tests.helpers.processes import Mosquitto, free_port

BAR_S = 5.0
# The page polls once a second, and its process draws rows twice a second.
PATIENCE_S = BAR_S + 1.5
ACCOUNTS = "allow_anonymous false\npassword_file {folder}/passwords\nacl_file {folder}/acl\n"
_IS_GREYED = """() => {
  const page = document.documentElement;
  if (!page.classList.contains("old")) return false;
  const marked = [...document.querySelectorAll("main, main .level.critical")];
  const colours = () => marked.map((e) => getComputedStyle(e).color);
  const old = colours();
  page.classList.remove("old");
  const current = colours();
  page.classList.add("old");
  return new Set(old).size === 1 && old.every((colour, at) => colour !== current[at]);
}"""


class Cases:
    """What each case has shown."""

    def __init__(self) -> None:
        self.targets: list[Target] = []

    def expect(self, case: str, page: Page, is_so: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
        began = time.monotonic()
        while not (holds := bool(is_so())) and time.monotonic() - began < within_s:
            page.wait_for_timeout(100)
        took_s = time.monotonic() - began
        self.targets.append(
            Target(case, f"after {took_s:.1f} s" if holds else "never", f"within {within_s:g} s", holds)
        )
        print(f"{'ok  ' if holds else 'FAIL'} {took_s:4.1f} s  {case}", flush=True)
        if not holds:
            print(f"--- the page says:\n{shown(page)[:1500]}\n---", flush=True)


def bar(page: Page) -> str:
    return " ".join(page.locator(".bar").all_inner_texts())


def is_greyed(page: Page) -> bool:
    """True if the page is marked as old, and its text and levels have lost their colours."""
    return bool(page.evaluate(_IS_GREYED))


def main(words: list[str]) -> int:
    options = parser_of("rigs.web faults", __doc__)
    options.add_argument("--without-rabbitmq", action="store_true")
    given: argparse.Namespace = options.parse_args(words)
    require({"mosquitto": "mosquitto", "chromium": "chromium", "mosquitto_passwd": "mosquitto"})
    cases = Cases()
    complaints: list[str] = []
    with chromium() as browser:
        broker_and_process(browser, cases)
        complaints += boards_and_clocks(browser, cases)
        permissions(browser, cases)
        if not given.without_rabbitmq and shutil.which("rabbitmqctl", path=SEARCH_PATH):
            rabbitmq(browser, cases)
        else:
            print("left out: RabbitMQ (apt-get install rabbitmq-server)")
    # While a process is off or has just begun, a browser says so itself.
    complaints = [one for one in complaints if not one.startswith("Failed to load resource")]
    return verdict([*cases.targets, none_of("complaints in the console", complaints)])


def broker_and_process(browser: Browser, cases: Cases) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        broker = Mosquitto(Path(name), free_port(), is_persistent=True)
        broker.start()
        stack.callback(broker.stop)
        page = PageProcess(Path(name), broker.port)
        with staged(broker.port) as stage, tab(browser) as view:
            page.start()
            view.goto(f"{page.url}/#/boards")
            view.get_by_text("press-04").first.wait_for()
            cases.expect("at first there is no bar", view, lambda: not bar(view) and not is_greyed(view))
            stage.audits(2)
            broker.stop()
            cases.expect("broker killed: a bar names it", view, lambda: str(broker.port) in bar(view))
            cases.expect("broker killed: figures are grey", view, lambda: is_greyed(view))
            view.goto(f"{page.url}/#/check")
            cases.expect("broker killed: nothing can be answered", view, lambda: not enabled_choices(view))
            broker.start()
            cases.expect("broker back: no bar", view, lambda: not bar(view) and not is_greyed(view), within_s=30)
        with staged(broker.port), tab(browser) as view:
            view.goto(f"{page.url}/#/boards")
            view.get_by_text("press-04").first.wait_for()
            page.kill()
            cases.expect("process killed: a bar", view, lambda: bar(view))
            cases.expect("process killed: figures are grey", view, lambda: is_greyed(view))
            page.start()
            cases.expect("process back: no bar", view, lambda: not bar(view) and not is_greyed(view), within_s=15)
            cases.expect("process back: its journal says when it was off", view, lambda: was_off(page))
            page.process.terminate() if page.process else None
            page.process.wait(30) if page.process else None


def was_off(page: PageProcess) -> bool:
    return any(entry["what"] == "page-was-off" for entry in page.get("journal", limit=100)["journal"])


def enabled_choices(view: Page) -> int:
    return view.locator(".choice:not([aria-disabled=true])").count()


def boards_and_clocks(browser: Browser, cases: Cases) -> list[str]:
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name), free_port()) as broker,
        staged(broker.port) as stage,
        PageProcess(Path(name), broker.port) as page,
        tab(browser) as view,
    ):
        site = stage.site
        view.goto(f"{page.url}/#/board/cabinet")
        cases.expect("a board that speaks is ok", view, lambda: "°C" in shown(view))
        stage.silence("cabinet")
        cases.expect(
            "board stale: its level says so", view, lambda: "STALE" in shown(view), within_s=3 * stage.interval_s + 5
        )
        cases.expect("board stale: no figure is left", view, lambda: figure_of(view) in ("", "–"))
        view.goto(f"{page.url}/#/board/conveyor-01")
        stage.silence("conveyor-01")
        ahead = dt.datetime.now(dt.UTC) + dt.timedelta(hours=3)
        # Retained, and read by a process that starts later. Only then does the time of the document say its age.
        site.health("conveyor-01", ts=ahead.isoformat(), expires=False)
        page.kill()
        page.start()
        cases.expect("clock of the board wrong: said in words", view, lambda: "clock" in shown(view), within_s=20)
        with tab(browser) as wrong:
            wrong.clock.install(time=dt.datetime.now(dt.UTC) + dt.timedelta(hours=5))
            wrong.goto(f"{page.url}/#/boards")
            wrong.get_by_text("press-04").first.wait_for()
            cases.expect(
                "clock of the browser wrong: the page is current",
                wrong,
                lambda: not bar(wrong) and not is_greyed(wrong),
            )
            now = dt.datetime.now(dt.UTC)
            times = {f"{now + dt.timedelta(seconds=ago):%H:%M}" for ago in (-30, 0)}
            cases.expect(
                "clock of the browser wrong: the server's time is shown",
                wrong,
                lambda: any(one in shown(wrong) for one in times),
            )
        return complaints_of(view)


def figure_of(view: Page) -> str:
    """The temperature on a board's screen."""
    text = [one for one in view.locator("dl .figure, .figure").all_inner_texts() if "emperature" in one]
    return text[0].splitlines()[-1].strip() if text else ""


def permissions(browser: Browser, cases: Cases) -> None:
    """The account of the page may read what boards say of themselves, and nothing else."""
    acl = "user boards\ntopic readwrite #\nuser page\n"
    acl += "".join(f"topic read edgeai/v1/+/+/{end}\n" for end in ("state", "info", "health", "alarm/+"))
    with accounts(acl) as (folder, port):
        words = ("--username", "page", "--password-file", str(folder / "password"))
        with PageProcess(folder, port, *words) as page, staged(port, user=("boards", "secret")), tab(browser) as view:
            view.goto(f"{page.url}/#/answers")
            cases.expect(
                "no permission to read answers: said in words",
                view,
                lambda: "nothing heard" in shown(view).lower() or "may " in shown(view).lower(),
                within_s=60,
            )
    acl = "user boards\ntopic readwrite #\nuser page\ntopic read edgeai/v1/#\n"
    with accounts(acl) as (folder, port):
        words = ("--username", "page", "--password-file", str(folder / "password"))
        with (
            PageProcess(folder, port, *words) as page,
            staged(port, user=("boards", "secret")) as stage,
            tab(browser) as view,
        ):
            view.goto(f"{page.url}/#/check")
            stage.audits(2)
            choice = view.locator(".choice").first
            choice.wait_for()
            view.wait_for_timeout(1000)  # a touch that comes sooner was meant for the audit before
            choice.click()
            cases.expect(
                "no permission to give feedback: said in words",
                view,
                lambda: "does not let the account web write feedback" in shown(view),
                within_s=30,
            )


@contextmanager
def accounts(acl: str) -> Iterator[tuple[Path, int]]:
    """A broker with the accounts `boards` and `page`, whose password is `secret`, and what they may do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "acl").write_text(acl, encoding="utf-8")
        (folder / "password").write_text("secret\n", encoding="utf-8")
        (folder / "password").chmod(0o600)
        (folder / "passwords").touch()
        for account in ("boards", "page"):
            program = shutil.which("mosquitto_passwd", path=SEARCH_PATH)
            assert program is not None
            subprocess.run(
                [program, "-b", str(folder / "passwords"), account, "secret"], check=True, capture_output=True
            )
        for file in ("acl", "passwords"):
            (folder / file).chmod(0o644)
        broker = Mosquitto(folder, free_port(), ACCOUNTS.format(folder=folder))
        text = (folder / "mosquitto.conf").read_text("utf-8").replace("allow_anonymous true\n", "")
        (folder / "mosquitto.conf").write_text(text, encoding="utf-8")
        with broker:
            yield folder, broker.port


def rabbitmq(browser: Browser, cases: Cases) -> None:
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name)) as cluster:
        port = cluster.nodes[0].mqtt_port
        (Path(name) / "web").mkdir()
        with PageProcess(Path(name) / "web", port) as page, staged(port) as stage, tab(browser) as view:
            view.goto(f"{page.url}/#/boards")
            cases.expect(
                "RabbitMQ: boards appear with their next health",
                view,
                lambda: "press-04" in shown(view),
                within_s=stage.interval_s + 10,
            )
            cases.expect("RabbitMQ: a bar says what may be missing", view, lambda: "RabbitMQ" in bar(view))
