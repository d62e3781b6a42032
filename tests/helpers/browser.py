"""Debian's Chromium, driven by playwright, and what a person would notice on a page."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

PROGRAM = shutil.which("chromium")
NO_CHROMIUM = "needs a browser: apt-get install chromium"
NARROW, WIDE = 320, 1280
WIDTHS, SCHEMES = (NARROW, WIDE), ("light", "dark")
# A fingertip in a glove (labels), and any other target.
LABEL_PX, TARGET_PX = 64, 48
# What WCAG 1.4.12 lets a reader set.
TEXT_SPACING = """
const sheet = new CSSStyleSheet();
sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }
  p { margin-bottom: 2em !important }`);
document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
"""
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
_AXE = "() => axe.run(document, {resultTypes: ['violations']})"
_TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.scrollingElement.scrollWidth <= width) return [];
  const wide = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > width + 0.5);
  const first = wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 90));
  return [`${document.scrollingElement.scrollWidth} of ${width} px`, ...first];
}"""
# What a finger meets counts, even a pseudo-element. A link inside a sentence may be smaller (WCAG 2.5.8).
_SMALL = """([label, other]) => {
  const targets = "a[href], button, input, select, textarea, summary";
  const found = [];
  for (const e of document.querySelectorAll(targets)) {
    const whole = e.matches("input[type=checkbox], input[type=radio]") ? e.closest("label") ?? e : e;
    if (!e.checkVisibility({visibilityProperty: true}) || e.closest("[aria-hidden=true]")) continue;
    const wanted = e.matches(".choice") ? label : other;
    let box = whole.getBoundingClientRect();
    if (e.matches("p a") && box.height >= 24 - 0.5) continue;
    if (box.right <= 0 || box.bottom <= -scrollY) continue;  // shown only while it has the focus
    if (box.height >= wanted - 0.5 && box.width >= Math.min(wanted, other) - 0.5) continue;
    e.scrollIntoView({block: "center"});
    box = whole.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const meets = (right, down) => {
      const hit = document.elementFromPoint(x + right, y + down);
      return hit && (whole.contains(hit) || hit.closest(targets) === e);
    };
    const reach = (right, down) => {
      let pixels = 0;
      while (pixels < wanted && meets(right * (pixels + 1), down * (pixels + 1))) pixels += 1;
      return pixels;
    };
    const hits = reach(0, 1) + reach(0, -1) >= wanted - 2 && reach(1, 0) + reach(-1, 0) >= other - 2;
    const size = `${Math.round(box.width)} × ${Math.round(box.height)} px`;
    if (!hits) found.push(`${size}, wanted ${wanted}: ${e.outerHTML.slice(0, 110)}`);
  }
  return found;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own. Its playwright keeps an event loop on this thread, so no other asyncio may run here."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*_OPTIONS])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(
    browser: Browser,
    *,
    width: int = WIDE,
    height: int = 800,
    scheme: str = "light",
    is_touched: bool = False,
    language: str = "en-GB",
    **more: Any,
) -> Iterator[Page]:
    """A new tab with storage of its own. `complaints_of` tells what it wrote to its console."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=is_touched,
        locale=language,
        timezone_id="UTC",
        **more,
    )
    try:
        page = context.new_page()
        page.set_default_timeout(20_000)
        complaints: list[str] = []
        _COMPLAINTS[page] = complaints
        page.on("console", lambda message: _keep(complaints, message))
        page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
        yield page
        del _COMPLAINTS[page]
    finally:
        context.close()


_COMPLAINTS: dict[Page, list[str]] = {}


def _keep(complaints: list[str], message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        complaints.append(f"{message.text} ({message.location.get('url', '')})")


def complaints_of(page: Page) -> list[str]:
    """Errors of scripts, and violations of the Content Security Policy, that the console of a tab has shown."""
    return _COMPLAINTS[page]


def axe_violations(page: Page) -> list[str]:
    """What axe-core finds, a line for each element. Its own styles cause complaints, so look at those first."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_axe_source())
    found = page.evaluate(_AXE)["violations"]
    return [
        f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:200]}" for one in found for node in one["nodes"]
    ]


def _axe_source() -> str:
    package = importlib.util.find_spec("axe_playwright_python")
    assert package is not None, "pip install axe-playwright-python"
    return Path(str(package.origin)).with_name("axe.min.js").read_text("utf-8")


def too_wide(page: Page) -> list[str]:
    """Empty unless the page scrolls sideways; then what reaches beyond its edge."""
    return list(page.evaluate(_TOO_WIDE))


def small_targets(page: Page) -> list[str]:
    """What is too small for a finger."""
    return list(page.evaluate(_SMALL, [LABEL_PX, TARGET_PX]))


def shown(page: Page) -> str:
    """The text that a reader sees."""
    return page.locator("body").inner_text()
