"""The page in a real Chromium: every screen, narrow and wide, light and dark, by keys and by touch."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from edge_agent.run_note import WITHOUT_POWER
from rigs.web.site import LABELS, TRIAGE, WATCH
from rigs.web.stage import CRITICAL, FINE, HEAT, Stage, staged
from tests.conftest import NO_MOSQUITTO
from tests.helpers.browser import (
    NARROW,
    NO_CHROMIUM,
    PROGRAM,
    TEXT_SPACING,
    WIDE,
    axe_violations,
    chromium,
    complaints_of,
    small_targets,
    tab,
    too_wide,
)
from tests.helpers.page import PASSWORD, PageProcess, Person, users_file
from tests.helpers.processes import Mosquitto, free_port, wait_until

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(not Mosquitto.is_installed(), reason=NO_MOSQUITTO),
]
# Each screen, and what it shows once it is drawn.
SCREENS = {
    "boards": CRITICAL,
    f"board/{CRITICAL}": HEAT,
    "alarms": "overheating",
    "check": LABELS[2],
    "answers": FINE[0],
    f"try/{FINE[0]}/machine-triage": "machine-triage",
    "login": "",
}
# Other tests run at the same time on few cores.
expect.set_options(timeout=20_000)
# A second touch that comes sooner was meant for the audit before.
GUARD_MS = 700
LOOKS = [(NARROW, "light"), (WIDE, "dark")]
# Each screen is seen in one of them; `rigs.web screens` has all.
SEEN = [(screen, *LOOKS[number % 2]) for number, screen in enumerate(SCREENS, 1)]
# What was pressed is on the list before its response comes.
LATE = """
const send = window.fetch;
window.fetch = async (address, ...more) => {
  const response = await send(address, ...more);
  if (address.startsWith("api/v1/feedback")) await new Promise((resolve) => setTimeout(resolve, 1500));
  return response;
};"""
# The second one is too early for the next reading. Tells whether its buttons are dimmed.
TWO_KEYS = """() => {
  for (const _ of "22") document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "2", bubbles: true}));
  return document.querySelector(".choice")?.matches("[aria-disabled=true]");
}"""
TEN_SECONDS_PASS = "() => { const real = performance.now.bind(performance); performance.now = () => real() + 10_000; }"
MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class World(NamedTuple):
    browser: Browser
    page: PageProcess
    stage: Stage
    broker: Mosquitto

    def open(self, view: Page, screen: str) -> None:
        view.goto(f"{self.page.url}/#/{screen}")
        expect(view.locator("main h1")).to_be_visible()
        expect(view.locator("main")).to_contain_text(SCREENS.get(screen, ""))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("page")
    with (
        Mosquitto(folder, free_port()) as broker,
        staged(broker.port, interval_s=1.0) as stage,
        PageProcess(folder, broker.port) as page,
        chromium() as browser,
    ):
        # Answers are not retained, so the page has to have subscribed before they are given.
        wait_until(lambda: len(page.get("changes")["order"]) == 6, "the page knows all boards")
        stage.ask_and_answer()
        wait_until(lambda: page.get("checks")["open"] >= 12, "the page knows the audits")
        answer_first(page, "Ana")
        yield World(browser, page, stage, broker)


def answer_first(page: PageProcess, name: str) -> None:
    """Answers the first audit, which the page sends ten seconds later."""
    with closing(Person(page.url)) as person:
        key = person.get("checks")["checks"][0]["key"]
        person.post("feedback", {"key": key, "answer": LABELS[0], "by": name}).raise_for_status()


@pytest.fixture
def view(world: World) -> Iterator[Page]:
    """A wide tab; its console must stay empty."""
    with tab(world.browser) as page:
        yield page
        assert complaints_of(page) == []


@pytest.mark.parametrize(("screen", "width", "scheme"), SEEN)
def test_a_screen_is_accessible_and_fits(world: World, screen: str, width: int, scheme: str) -> None:
    """It fits even with text spacing (WCAG 1.4.12), and at 200 % (1.4.4), when a window of 1,280 px has 640."""
    with tab(world.browser, width=width, scheme=scheme) as view:
        world.open(view, screen)
        assert too_wide(view) == []
        assert small_targets(view) == []
        assert complaints_of(view) == []
        assert axe_violations(view) == []
        view.evaluate(f"() => {{{TEXT_SPACING}}}")
        assert too_wide(view) == []
        view.set_viewport_size({"width": WIDE // 2, "height": 400})
        assert too_wide(view) == []


def test_an_audit_is_answered_and_taken_back_by_keys_alone(world: World, view: Page) -> None:
    world.open(view, "check")
    shown = view.locator(".card .id")
    first = shown.inner_text()
    view.wait_for_timeout(GUARD_MS)
    view.keyboard.press("3")
    expect(shown).not_to_have_text(first)
    expect(view.locator("#check-title")).to_be_focused()
    mark = view.locator(".marks li").first
    expect(mark).to_contain_text(LABELS[2])
    # Somebody else answers meanwhile; the key takes back only what was said here.
    other = world.page.get("checks")["checks"][-1]["key"]
    ben = Person(world.page.url)
    others = ben.post("feedback", {"key": other, "answer": LABELS[1], "by": "Ben"}).json()["mark"]
    expect(mark).to_contain_text("Ben")
    view.keyboard.press("u")
    expect(shown).to_have_text(first)
    assert ben.post("feedback/undo", {"mark": others, "by": "Ben"}).status_code == 200
    ben.close()
    view.wait_for_timeout(GUARD_MS)
    view.keyboard.press("n")
    expect(mark).to_contain_text("None of these")
    view.keyboard.press("u")
    expect(shown).to_have_text(first)
    view.wait_for_timeout(GUARD_MS)
    # Single keys can be switched off, so the labels are reached by Tab, too.
    for _ in range(30):
        view.keyboard.press("Tab")
        if view.evaluate("() => document.activeElement.matches('.choice')"):
            break
    view.keyboard.press("Enter")
    expect(shown).not_to_have_text(first)
    expect(mark).to_contain_text(LABELS[0])


def test_each_key_answers_one_reading_however_late_its_response_is(world: World, view: Page) -> None:
    view.add_init_script(LATE)
    asked = [world.stage.site.answer(FINE[1], is_audit=True)["id"] for _ in range(10)]
    wait_until(lambda: world.page.get("checks", device=FINE[1])["open"] >= 10, "the page knows the audits")
    keys = {check["id"]: check["key"] for check in world.page.get("checks", device=FINE[1])["checks"]}
    world.open(view, f"check?device={FINE[1]}")
    shown, answered = view.locator(".card .id"), []
    for _ in range(10):
        answered.append(shown.inner_text())
        expect(view.locator(".choice:not([aria-disabled])")).to_have_count(len(LABELS))
        assert view.evaluate(TWO_KEYS) in (True, None)
        expect(shown.or_(view.get_by_text("Nothing to check"))).not_to_have_text(answered[-1], timeout=500)
        expect(view.locator(".taken")).to_have_count(0)
    assert answered == asked
    marks = world.page.get("checks")["marks"][:10]
    assert [mark["key"] for mark in marks] == [keys[each] for each in reversed(asked)]


def test_an_audit_is_answered_by_touch_and_stays_blind_when_that_is_taken_back(world: World) -> None:
    with tab(world.browser, width=NARROW, is_touched=True) as view:
        world.open(view, "check")
        shown = view.locator(".card .id")
        first = shown.inner_text()
        view.wait_for_timeout(GUARD_MS)
        view.locator(".choice", has_text=LABELS[1]).tap()
        expect(shown).not_to_have_text(first)
        mark = view.locator(".marks li").first
        expect(mark).to_contain_text(LABELS[1])
        expect(view.locator(".last")).to_be_in_viewport()
        view.locator(".last button").tap()
        expect(shown).to_have_text(first)
        expect(mark).to_contain_text("Taken back.")
        expect(mark).not_to_contain_text("The board:")
        assert complaints_of(view) == []


def test_more_readings_can_be_reached_than_one_request_lists(world: World, view: Page) -> None:
    world.stage.audits(25)
    world.open(view, "check")
    seen: set[str] = set()

    def has_seen_more() -> bool:
        view.keyboard.press("j")
        seen.add(view.locator(".card .id").inner_text())
        return len(seen) > 20

    wait_until(has_seen_more, "the page shows more than 20 readings")


def test_a_reading_that_nobody_can_tell_is_shown_again_when_asked_for(world: World, view: Page) -> None:
    world.open(view, "check")
    shown = view.locator(".card .id")
    first = shown.inner_text()
    view.wait_for_timeout(GUARD_MS)
    view.keyboard.press("0")
    expect(shown).not_to_have_text(first)
    expect(view.locator("main")).to_contain_text("Put back")
    view.keyboard.press("u")
    expect(shown).to_have_text(first)
    view.wait_for_timeout(GUARD_MS)
    view.keyboard.press("0")
    expect(shown).not_to_have_text(first)
    view.get_by_role("button", name="Show again").click()
    view.keyboard.press("k")
    expect(shown).to_have_text(first)


def test_alarms_name_the_boards_that_are_silent(world: World, view: Page) -> None:
    world.open(view, "alarms")
    view.get_by_role("link", name="silent").click()
    expect(view.locator("main tbody tr.offline, main tbody tr.stale").first).to_be_visible()


def test_focus_stays_where_it_is_while_figures_change(world: World, view: Page) -> None:
    for screen in ("boards", f"board/{CRITICAL}", "check", "answers"):
        world.open(view, screen)
        target = view.locator("main a[href], main button, main input").first
        target.focus()
        before = view.evaluate("() => (window.focused = document.activeElement).outerHTML.slice(0, 60)")
        as_of = view.locator(".as-of").inner_text()
        expect(view.locator(".as-of")).not_to_have_text(as_of)
        assert view.evaluate("() => document.activeElement === window.focused"), (
            f"{screen}: {before} has lost the focus"
        )


def test_text_that_somebody_types_survives_the_redraws(world: World, view: Page) -> None:
    world.open(view, "boards")
    find = view.locator("main input[type=search]")
    find.type("pre")
    as_of = view.locator(".as-of").inner_text()
    expect(view.locator(".as-of")).not_to_have_text(as_of)
    find.type("ss-04")
    expect(find).to_have_value(CRITICAL)
    expect(view.locator("main tbody tr")).to_have_count(1)


def test_a_list_does_not_move_under_the_pointer(world: World, view: Page) -> None:
    world.open(view, "boards")
    rows = view.locator("main tbody th")
    before = rows.all_inner_texts()
    rows.nth(1).hover()
    world.stage.site.alarm(FINE[0], "disk-low")
    try:
        expect(view.locator(".counts")).to_contain_text("2 ■ CRITICAL")
        assert rows.all_inner_texts() == [*before, FINE[0]]
        expect(view.locator(".calm")).not_to_contain_text(FINE[0])
        # Somebody leaves the mouse there.
        view.evaluate(TEN_SECONDS_PASS)
        # Behind the boards that are not heard.
        expect(rows.nth(2)).to_have_text(FINE[0])
    finally:
        world.stage.site.end_alarm(FINE[0], "disk-low")


def test_what_is_said_of_a_board_grows_no_row_under_the_pointer(world: World, view: Page) -> None:
    world.open(view, "boards?level=all")
    stopped, below = (view.locator("main tbody tr").filter(has_text=device) for device in FINE[:2])
    below.hover()
    before = below.bounding_box()
    world.stage.site.state(FINE[0], "stopped")
    try:
        expect(stopped).to_contain_text("stopped")
        assert below.bounding_box() == before
        view.mouse.move(1, 1)
        expect(stopped).to_contain_text("systemctl start edge-agent")
        expect(stopped).to_contain_text(re.compile(r"since \d\d:\d\d:\d\d \(\d+ s\)"))
    finally:
        world.stage.site.state(FINE[0])


def test_what_boards_say_is_shown_as_text(world: World, view: Page) -> None:
    """A board has `<script>` as label, input, output, alarm, machine and name."""
    site = world.stage.site
    labels = [*LABELS[:2], MARKUP]
    device = "<script>document.title='owned'<script>"
    site.info(FINE[1], **{"machine-triage": {"kind": "classify", "labels": labels, "audit_rate": 0.1, "publish": None}})
    site.alarm(FINE[1], "disk-low", message=MARKUP)
    site.publish(f"{site.base(device)}/state", {"state": "online", "session": MARKUP, "reason": MARKUP})
    site.publish(f"{site.base(device)}/health", {"ts": MARKUP, "overall": "critical", "reasons": [MARKUP]})
    site.answer(FINE[1], is_audit=True, input={MARKUP: MARKUP}, output=MARKUP, machine=MARKUP, id=MARKUP)
    site.answer(FINE[1], input=MARKUP, output=MARKUP, id=f"{MARKUP}2")
    try:
        for screen in (
            "boards?level=all",
            f"board/{FINE[1]}",
            "alarms",
            f"check?device={FINE[1]}",
            f"answers?device={FINE[1]}",
        ):
            view.goto(f"{world.page.url}/#/{screen}")
            expect(view.locator("main")).to_contain_text("<script>")
            assert view.locator("body script, img, iframe").count() == 0
            assert "owned" not in view.title()
    finally:
        site.end_alarm(FINE[1], "disk-low")


def test_a_task_is_tried_by_its_form(world: World, view: Page) -> None:
    world.open(view, f"try/{FINE[0]}/machine-triage")
    whole = view.locator("textarea")
    if whole.count():
        whole.fill('{"vibration_mm_s": 7.9}')
    view.locator("form.ask .main").click()
    result = view.locator(".result")
    expect(result).to_contain_text(FINE[0])
    expect(result.locator(".scores tbody tr")).to_have_count(len(LABELS))


def test_the_page_speaks_german_to_who_prefers_it(world: World) -> None:
    with tab(world.browser, width=NARROW, language="de-DE") as view:
        for screen in SCREENS:
            world.open(view, screen)
            assert view.locator("html").get_attribute("lang") == "de"
            assert too_wide(view) == []
        site = world.stage.site
        names = ", ".join([*("x" * 64 for _ in range(3)), TRIAGE])
        wrong_since = f"tasks {names}: task {'x' * 64} is wrong since 2026-11-30T03:02:32.084Z"
        site.alarm(FINE[0], "accuracy-low", message=wrong_since)
        fields = {"restarts": 1, "pid": 3588, "reason": "killed by SIGKILL"}
        site.publish(f"{site.base(FINE[0])}/event/worker-restarted", {"ts": "2026-11-30T03:02:32.084Z", **fields})
        site.publish(f"{site.base(FINE[0])}/event/agent-restarted", {"reason": WITHOUT_POWER})
        bundle = {"folder": "pumps", "version": 1}
        site.publish(f"{site.base(FINE[0])}/event/model-switched", {"old": bundle, "new": {**bundle, "version": 2}})
        site.state(FINE[0], "offline", "model-load-failed: pumps does not exist; should be a folder")
        # The screen asks for the journal only every ten seconds.
        wait_until(lambda: "does not exist" in json.dumps(world.page.get("journal")), "the journal has all of it")
        site.state(FINE[0])
        audits = site.set_audits(FINE[0], 0)
        try:
            world.open(view, "alarms")
            hot, wrong = (view.locator(".alarms > li", has_text=name) for name in ("Überhitzung", "zu oft falsch"))
            expect(hot).to_contain_text("Was tun: Gerät kühlen oder weniger Anfragen schicken.")
            expect(hot.locator("[lang=en]")).to_have_text(HEAT)
            expect(wrong).to_contain_text("neue beantworten, neu trainieren oder zum vorherigen Modell zurückkehren.")
            expect(wrong.locator("[lang=en]")).to_have_text(re.compile(r" is wrong since (30\. Nov\., )?\d\d:\d2:32$"))
            expect(view.locator(".journal")).to_contain_text(
                "Prozess des Modells neu gestartet: Neustarts: 1; PID: 3588; Grund: killed by SIGKILL"
            )
            expect(view.locator(".journal")).to_contain_text("Grund: das Gerät war ohne Strom oder wurde zurückgesetzt")
            expect(view.locator(".journal")).to_contain_text("von pumps (Version 1) auf pumps (Version 2)")
            expect(view.locator(".journal")).to_contain_text("Alarm „zu oft falsch“ ausgelöst")
            entry = view.locator(".journal .entry", has_text="pumps does not exist").first
            expect(entry).to_contain_text("jetzt OFFLINE: das Modell lässt sich nicht laden; zuletzt gehört vor")
            expect(entry.locator("[lang=en]")).to_have_text("pumps does not exist; should be a folder")
            assert too_wide(view) == []
            world.open(view, f"board/{FINE[0]}")
            assert too_wide(view) == []
            expect(view.locator(".accuracy", has_text="Seit die Genauigkeit gefallen ist")).to_have_count(1)
        finally:
            site.set_audits(FINE[0], audits)
            site.end_alarm(FINE[0], "accuracy-low")
        # These are features of signals, shown as the same numbers on each screen.
        features = {"last": 9.11, "mean_10m": 11.3014, "min_10m": 5.3, "std_10m": 3.78679, "slope_10m": -0.561569}
        reading = {"current_a": features, "speed_rpm": 2951, "pressure_bar": 3.982}
        world.stage.site.answer(FINE[0], is_audit=True, machine="Presse 9", input=reading)
        world.open(view, "check?machine=presse")
        card = view.locator(".card", has_text="Presse 9")
        expect(card.locator("dd:not(.features)")).to_have_text(["9,11", "2951", "3,982"])
        expect(card.locator(".features .whole")).to_have_text(
            ["mean_10m 11,3014", "min_10m 5,3", "std_10m 3,78679", "slope_10m -0,561569"]
        )
        assert too_wide(view) == []
        world.open(view, "answers?machine=presse")
        expect(view.locator(".input-line")).to_have_text("current_a 9,11   speed_rpm 2951   pressure_bar 3,982")
        assert complaints_of(view) == []


def test_what_was_said_reaches_the_board_and_is_corrected_until_its_answer_is_shown(world: World, view: Page) -> None:
    world.open(view, "check")
    view.get_by_label("Your name").fill("Ana")
    view.get_by_label("Your name").press("Tab")
    mark = view.locator(".marks li.kept").filter(has_text="Ana").first
    expect(mark).to_contain_text(f"{LABELS[0]}. Kept.")
    expect(mark).not_to_contain_text("The board:")
    mark.get_by_role("button", name="Correct").click()
    mark.locator(".choice", has_text=LABELS[1]).click()
    newest = view.locator(".marks li").first
    expect(newest).to_contain_text(f"{LABELS[1]}. Kept.")
    expect(newest).to_contain_text(re.compile(r"answered \d\d:\d\d"))
    expect(view.locator(".marks li.corrected")).to_contain_text(LABELS[0])
    newest.get_by_role("button", name="Show the board's answer").click()
    expect(newest).to_contain_text("The board:")
    expect(newest.locator("button")).to_have_count(0)
    assert [sent["answer"] for sent in world.stage.site.feedback if sent.get("by") == "Ana"] == [*LABELS[:2]]


def test_a_phone_without_a_network_tells_what_the_server_has_from_what_was_not_sent(world: World) -> None:
    world.stage.audits(2)
    with tab(world.browser, width=NARROW) as view:
        world.open(view, "check")
        view.wait_for_timeout(GUARD_MS)
        view.keyboard.press("1")
        mark = view.locator(".last")
        expect(mark).to_contain_text(re.compile(r"It is sent in (\d|10) s"))
        view.wait_for_timeout(GUARD_MS)
        view.context.set_offline(True)
        view.keyboard.press("2")
        expect(view.locator("main")).to_contain_text("Your answer was not sent")
        expect(mark).to_contain_text(f"{LABELS[0]}. The server has this answer.")
        # When the phone reaches it again, it has been killed meanwhile.
        checks = {**world.page.get("checks"), "marks": []}
        view.route("**/api/v1/checks*", lambda route: route.fulfill(json=checks))
        view.context.set_offline(False)
        expect(view.locator("main")).to_contain_text("perhaps before it sent 1 of your answers")


def test_who_answers_second_is_told_so(world: World) -> None:
    with tab(world.browser) as view, closing(Person(world.page.url)) as ben:
        world.open(view, "check")
        key = world.page.get("checks")["checks"][0]["key"]
        said = {"key": key, "answer": LABELS[1], "by": "Ben"}
        view.wait_for_timeout(GUARD_MS)
        # Between the card that is shown and the touch.
        view.route("**/api/v1/feedback", lambda route: (ben.post("feedback", said), route.continue_()))
        view.locator(".choice").first.click()
        notice = view.locator("[role=alert]", has_text=f"Ben was faster; your answer “{LABELS[0]}” was not kept.")
        expect(notice).to_be_visible()


def test_a_reading_that_somebody_else_answers_stays_and_what_is_pressed_for_it_counts_for_nothing(
    world: World,
) -> None:
    with tab(world.browser) as view, closing(Person(world.page.url)) as ben:
        world.stage.audits(2)
        world.open(view, "check")
        shown = view.locator(".card .id")
        for name, keys in (("Ben", "1"), ("Cem", None)):
            first = shown.inner_text()
            key = next(check["key"] for check in world.page.get("checks")["checks"] if str(check["id"]) == first)
            mark = ben.post("feedback", {"key": key, "answer": LABELS[1], "by": name}).json()["mark"]
            expect(view.locator(".card")).to_contain_text(f"{name} has just answered this reading.")
            expect(shown).to_have_text(first)
            expect(view.locator(".choice")).to_have_count(0)
            assert axe_violations(view) == []
            view.wait_for_timeout(GUARD_MS)
            view.keyboard.press(keys) if keys else view.locator(".card .main").click()
            expect(shown).not_to_have_text(first)
            expect(view.locator(".choice").first).to_be_visible()
            assert world.page.get("checks")["marks"][0]["mark"] == mark
        assert complaints_of(view) == []


def test_another_choice_of_boards_shows_the_first_of_its_readings_at_once(world: World, view: Page) -> None:
    for device in (CRITICAL, FINE[0]):
        world.stage.site.answer(device, is_audit=True)
        world.open(view, f"check?device={device}")
        expect(view.locator(".card a")).to_have_text(device)
        first = world.page.get("checks", device=device)["checks"][0]
        expect(view.locator(".card .id")).to_have_text(first["id"])
        expect(view.locator(".choice").first).to_be_visible()
        expect(view.locator(".taken")).to_have_count(0)
    world.open(view, "check")
    view.set_viewport_size({"width": NARROW, "height": 800})
    view.locator(".needs li", has_text=CRITICAL).get_by_role("link").click()
    expect(view.locator(".card a")).to_have_text(CRITICAL)
    expect(view.locator("#check-title")).to_be_in_viewport()
    world.open(view, f"check?device={CRITICAL}&machine=none")
    expect(view.locator("#check-title")).to_contain_text(
        re.compile(rf"^Nothing to check for {CRITICAL} · none, but \d+ other readings wait\.$")
    )
    view.locator(".card").get_by_role("link", name="Everything to check").click()
    expect(view.locator(".choice").first).to_be_visible()


def test_an_answer_is_found_by_its_machine_and_what_is_said_of_it_is_taken_back_there(world: World, view: Page) -> None:
    world.open(view, f"answers?device={FINE[1]}")
    for number in range(21):
        world.stage.site.answer(FINE[1], input={"vibration_mm_s": 9.5}, output=LABELS[0], machine=f"M{number}")
    view.get_by_role("link", name="Older").click()
    expect(view.locator(".answers-list li").first).not_to_contain_text("M20")
    view.get_by_role("combobox", name="Machine", exact=True).fill("m20 ")
    row = view.locator(".answers-list li")
    expect(row).to_have_count(1)
    expect(view.get_by_role("combobox", name="Machine", exact=True)).to_have_value("m20 ")
    view.get_by_role("combobox", name="Machine", exact=True).fill("m21")
    expect(view.locator("main")).to_contain_text(f"None of the answers kept here matches {FINE[1]} · m21.")
    view.get_by_role("link", name="All answers").click()
    expect(view.locator(".answers-list li").nth(1)).to_be_visible()
    view.go_back()
    view.get_by_role("combobox", name="Machine", exact=True).fill("m20")
    expect(row).to_have_count(1)
    row.get_by_role("button", name="Other").click()
    row.locator(".choice", has_text=LABELS[1]).click()
    expect(row).to_contain_text(f"You: {LABELS[1]}.")
    view.keyboard.press("u")
    expect(row.get_by_role("button", name="Right")).to_be_visible()


def test_words_for_an_unusual_reading_are_offered_for_the_next_one(world: World, view: Page) -> None:
    for _ in range(2):
        world.stage.site.unusual(CRITICAL)
    wait_until(lambda: world.page.get("checks", task=WATCH)["open"] >= 2, "the page knows the unusual readings")
    world.open(view, f"check?task={WATCH}")
    expect(view.locator(".choice")).to_have_count(1)
    view.wait_for_timeout(GUARD_MS)
    view.get_by_label("In your own words").fill("belt slips")
    view.keyboard.press("Enter")
    expect(view.locator(".choice").nth(1)).to_contain_text("belt slips")


def test_who_may_only_look_gets_no_buttons_and_a_login_brings_them(tmp_path: Path, world: World) -> None:
    users = users_file(tmp_path / "users.json", ana=("feedback", "try"), bob=())
    with PageProcess(tmp_path, world.broker.port, "--users", str(users)) as page, tab(world.browser) as view:
        view.goto(f"{page.url}/#/check")
        for name, count in (("bob", 0), ("ana", len(LABELS))):
            view.locator("input[name=username]").fill(name)
            view.locator("input[name=password]").fill(PASSWORD)
            view.locator("input[name=password]").press("Enter")
            expect(view.locator(".user")).to_contain_text(name)
            world.stage.audits(1)
            view.goto(f"{page.url}/#/check")
            expect(view.locator(".card .fields").first).to_be_visible()
            expect(view.locator(".choice")).to_have_count(count)
            # A phone's head shows everything, without moving it sideways.
            view.set_viewport_size({"width": NARROW, "height": 800})
            for words in ("hall1", "CRITICAL", "Answers", "Log out"):
                expect(view.locator("header").get_by_text(words, exact=True)).to_be_in_viewport(ratio=1)
            expect(view.locator("header").get_by_text("Try", exact=True)).to_have_count(1 if name == "ana" else 0)
            view.locator(".user button").click()
            expect(view.locator("input[name=username]")).to_be_visible()


def test_once_a_login_has_ended_no_counts_are_shown(tmp_path: Path, world: World) -> None:
    users = users_file(tmp_path / "users.json", ana=(), bob=())
    counts = re.compile(r"CRITICAL|as of")
    with PageProcess(tmp_path, world.broker.port, "--users", str(users)) as page, tab(world.browser) as view:
        view.goto(f"{page.url}/#/alarms")
        for name in ("ana", "bob"):
            view.locator("input[name=username]").fill(name)
            view.locator("input[name=password]").fill(PASSWORD)
            view.locator("input[name=password]").press("Enter")
            expect(view.locator("header")).to_contain_text(counts)
            if name == "ana":
                view.locator(".user button").click()
            else:
                users_file(users, ana=())
            expect(view.locator("input[name=username]")).to_be_visible()
            expect(view.locator("body")).not_to_contain_text(counts)


def test_who_finds_nothing_to_check_reads_what_only_it_can_change_in_small_print(world: World, view: Page) -> None:
    empty = {"open": 0, "checks": [], "rows": [], "reason": "silence"}
    view.route("**/api/v1/checks*", lambda route: route.fulfill(json={**world.page.get("checks"), **empty}))
    view.route("**/api/v1/answers*", lambda route: route.fulfill(json={**world.page.get("answers"), **empty}))
    for screen, words in (("check", "the next question appears here"), ("answers", "No answer has arrived")):
        view.goto(f"{world.page.url}/#/{screen}")
        expect(view.locator("main .note", has_text=words)).to_be_visible()
        expect(view.locator("main .small", has_text="For IT: If no answers arrive at all")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_who_finds_nothing_to_check_reads_since_when_the_page_has_heard_of_unusual_readings(
    world: World, width: int, scheme: str
) -> None:
    found = world.page.get("checks")
    assert found["listening_since"] < found["marks"][0]["at"]
    with tab(world.browser, width=width, scheme=scheme) as view:
        none = {**found, "open": 0, "checks": [], "reason": None}
        view.route("**/api/v1/checks*", lambda route: route.fulfill(json=none))
        view.goto(f"{world.page.url}/#/check")
        expect(view.locator("main .small", has_text="For IT: On the board, edge-agent audits TASK")).to_contain_text(
            re.compile(r"^This page has listened since \d\d:\d\d:\d\d\. Unusual readings from before may")
        )
        assert too_wide(view) == []
        assert axe_violations(view) == []


def test_a_page_that_lacks_all_checks_says_so_instead_of_that_there_is_nothing_to_check(
    world: World, view: Page
) -> None:
    lacking = {"device": CRITICAL, "task": "triage", "n": 27, "is_promised": True, "topic": "plant/+/triage"}
    none = {"open": 0, "checks": [], "reason": "silence", "not_here": [lacking]}
    view.route("**/api/v1/checks*", lambda route: route.fulfill(json={**world.page.get("checks"), **none}))
    view.goto(f"{world.page.url}/#/check")
    expect(view.locator("main .trouble")).to_contain_text("27 checks, none of which this page has")
    expect(view.locator("main .trouble")).to_contain_text(
        "For IT: Check that this page's account may read plant/+/triage."
    )
    expect(view.locator("#check-title")).to_have_text(
        "This page has nothing to check, although boards wait for answers."
    )


def test_the_wall_view_leaves_out_advice_and_says_how_many_boards_do_not_fit(world: World, view: Page) -> None:
    view.set_viewport_size({"width": 1920, "height": 1080})
    view.goto(f"{world.page.url}/?wall#/boards?level=all")
    below = view.locator(".below")
    expect(view.locator("tbody")).to_contain_text(FINE[1])
    expect(view.get_by_text("What to do:").first).to_be_hidden()
    expect(below).to_have_count(0)
    view.set_viewport_size({"width": 1920, "height": 300})
    expect(below).to_contain_text(re.compile(r"^\d+ more boards? do(es)? not fit on this screen$"))
    assert axe_violations(view) == []


def test_answers_that_take_long_are_counted_in_seconds(world: World, view: Page) -> None:
    changes = world.page.get("changes")
    board = next(board for board in changes["boards"] if board["device"] == FINE[0])
    view.route("**/api/v1/changes*", lambda route: route.fulfill(json=changes))
    for p95_ms, words in ((9_999, "9999 ms"), (28_044, "28 s"), (None, "–")):
        board["p95_ms"] = p95_ms
        view.goto(f"{world.page.url}/#/boards?level=all")
        view.reload()
        row = view.locator("tbody tr", has_text=FINE[0])
        expect(row.locator(".p95")).to_have_text(words)
        row.get_by_role("link").click()
        figure = view.locator(".figure", has_text="95 % answered within")
        expect(figure.locator("dd")).to_have_text([words] if p95_ms else [])


def test_that_boards_may_be_missing_is_said_above_their_list_alone(world: World, view: Page) -> None:
    changes = world.page.get("changes")
    hint = {"hint": "nothing", "hint_code": "not_retained"}
    changes = {**changes, "broker": {**changes["broker"], **hint}}
    view.route("**/api/v1/changes*", lambda route: route.fulfill(json=changes))
    for screen, bars in (("boards", 1), ("check", 0)):
        world.open(view, screen)
        expect(view.locator(".bar", has_text="The broker has sent nothing retained")).to_have_count(bars)


def test_a_lost_broker_and_a_lost_server_are_told_by_a_bar(tmp_path: Path, world: World) -> None:
    with Mosquitto(tmp_path, free_port()) as broker, staged(broker.port), PageProcess(tmp_path, broker.port) as page:
        with tab(world.browser) as view:
            view.goto(f"{page.url}/#/boards")
            expect(view.locator("main")).to_contain_text(CRITICAL)
            bar = view.locator(".bar")
            expect(bar).to_have_count(0)
            expect(view.locator(".as-of")).to_contain_text("as of")
            broker.stop()
            expect(bar).to_contain_text(str(broker.port))
            expect(view.locator(".as-of")).to_be_empty()
            expect(view.locator("html.old")).to_have_count(1)
            page.kill()
            expect(bar).not_to_contain_text(str(broker.port))
            expect(view.locator("html.old")).to_have_count(1)
        page.start()
        broker.start()
