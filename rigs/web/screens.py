"""Each screen in a real Chromium: 320 and 1,280 px, light and dark, English and German, with every board's condition.

axe-core finds nothing, nothing scrolls sideways, fingers meet targets; also with wider text spacing, at 200 %, in
forced colours, in the wall view. The test of the short form, tests/web/test_screens.py, comes first: it answers audits
by keys and by touch. --out writes the screenshots of docs/page.md. Exit code 1 if a target is missed.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from rigs.machine import parser_of, require, run_tests
from rigs.web.measuring import Target, none_of, verdict
from rigs.web.stage import CRITICAL, FINE, HEAT, Stage, staged
from tests.helpers.browser import (
    NARROW,
    SCHEMES,
    TEXT_SPACING,
    WIDE,
    WIDTHS,
    axe_violations,
    chromium,
    complaints_of,
    small_targets,
    tab,
    too_wide,
)
from tests.helpers.page import PageProcess
from tests.helpers.processes import Mosquitto, free_port, wait_until

# Each screen, and what it shows once it is drawn.
SCREENS = {
    "boards": CRITICAL,
    "boards?level=all": FINE[1],
    f"board/{CRITICAL}": HEAT,
    "alarms": "overheating",
    "check": "bearing fault",
    "answers": FINE[0],
    f"try/{FINE[0]}/machine-triage": "machine-triage",
    "login": "",
}
LANGUAGES = ("en-GB", "de-DE")
SHOTS = {
    "boards": "page-boards",
    f"board/{CRITICAL}": "page-board",
    "check": "page-check",
    f"try/{FINE[0]}/machine-triage": "page-try",
}


def main(words: list[str]) -> int:
    parser = parser_of("rigs.web screens", __doc__)
    parser.add_argument(
        "--out", type=Path, help="a folder for the screenshots of docs/page.md; then nothing is checked"
    )
    options: argparse.Namespace = parser.parse_args(words)
    require({"mosquitto": "mosquitto", "chromium": "chromium"})
    if options.out is None:
        short = run_tests("-q", "tests/web/test_screens.py")
    with staged_page() as (page, _), chromium() as browser:
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            take_shots(browser, page, options.out)
            return 0
        violations: list[str] = []
        wide: list[str] = []
        small: list[str] = []
        complaints: list[str] = []
        looks = list(itertools.product(WIDTHS, SCHEMES, LANGUAGES))
        for width, scheme, language in looks:
            with tab(browser, width=width, scheme=scheme, language=language) as view:
                for screen in SCREENS:
                    what = f"{screen}, {width} px, {scheme}, {language}"
                    open_screen(view, page, screen)
                    wide += [f"{what}: {one}" for one in too_wide(view)]
                    small += [f"{what}: {one}" for one in small_targets(view)]
                    complaints += [f"{what}: {one}" for one in complaints_of(view)]
                    violations += [f"{what}: {one}" for one in axe_violations(view)]
                    complaints_of(view).clear()  # axe's own
                    if width == NARROW:
                        view.evaluate(f"() => {{{TEXT_SPACING}}}")
                        wide += [f"{what}, text spacing: {one}" for one in too_wide(view)]
                        view.evaluate("() => { document.adoptedStyleSheets = []; }")
            print(f"{width} px, {scheme}, {language}: done", flush=True)
        for what, one_screen, more in others():
            with tab(browser, **more) as view:
                open_screen(view, page, one_screen, search="?wall" if "wall" in what else "")
                wide += [f"{what}: {one}" for one in too_wide(view)]
                complaints += [f"{what}: {one}" for one in complaints_of(view)]
                if "forced" not in what:
                    violations += [f"{what}: {one}" for one in axe_violations(view)]
    count = len(looks) * len(SCREENS)
    return verdict(
        [
            Target("the short form", f"exit code {short}", "exit code 0", short == 0),
            Target("screens looked at", str(count), str(count), holds=True),
            none_of("violations that axe finds", violations),
            none_of("sideways scroll", wide),
            none_of("targets that are too small", small),
            none_of("complaints in the console", complaints),
        ]
    )


def others() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Other ways to look at a screen."""
    for screen in SCREENS:
        # A window of 1,280 px at 200 % has 640 of CSS.
        yield f"{screen} at 200 %", screen, {"width": WIDE // 2, "height": 400}
        yield f"{screen} in forced colours", screen, {"forced_colors": "active"}
    yield "wall", "boards", {"width": 1920, "height": 1080, "scheme": "dark"}


@contextmanager
def staged_page() -> Iterator[tuple[PageProcess, Stage]]:
    """A page that knows boards in every condition, their audits and answers."""
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name), free_port()) as broker,
        staged(broker.port) as stage,
        PageProcess(Path(name), broker.port) as page,
    ):
        wait_until(lambda: len(page.get("changes")["order"]) == len(stage.site.devices), "the page knows all boards")
        stage.ask_and_answer()
        wait_until(lambda: page.get("checks")["open"] >= 6, "the page knows the audits")
        yield page, stage


def open_screen(view: Page, page: PageProcess, screen: str, *, search: str = "") -> None:
    view.goto(f"{page.url}/{search}#/{screen}")
    expect(view.locator("main")).to_contain_text(SCREENS[screen])


def take_shots(browser: Browser, page: PageProcess, folder: Path) -> None:
    for screen, name in SHOTS.items():
        with tab(browser, width=1120, height=760, language="en-GB") as view:
            open_screen(view, page, screen)
            if screen.startswith("try/"):
                fill_in(view)
            view.wait_for_timeout(1200)
            view.screenshot(path=folder / f"{name}.png")
            print(folder / f"{name}.png")


def fill_in(view: Page) -> None:
    whole = view.locator("textarea")
    if whole.count():
        whole.fill('{"vibration_mm_s": 7.9, "temperature_c": 81.5, "current_a": 12.1}')
    view.locator("form.ask .main").click()
    expect(view.locator(".result")).to_contain_text("ms")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
