"""The browser gets the same words in each language, those of `edge-agent watch`, and no markup from texts."""

import inspect
import json
import re

import pytest

from edge_agent.run_note import FAILED, KILLED, MODEL_CHANGED, WITHOUT_POWER
from edge_agent.status.alarms import ALARMS
from edge_agent.status.health import REASONS
from edge_agent.tools.watch.advice import ADVICE
from edge_agent.tools.watch.site import BoardLevel
from edge_agent.tools.watch.table import level_word
from edge_agent.web import checks, feedback, journal
from edge_agent.web.live import SILENT_LEVELS
from edge_agent.web.server import STATIC

WORDS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((STATIC / "words").glob("*.json"))}
LANGUAGES = sorted(WORDS)


def test_every_language_has_the_same_keys() -> None:
    assert LANGUAGES == ["de", "en"]
    assert list(WORDS["de"]) == list(WORDS["en"])


def test_both_languages_fill_in_the_same_values() -> None:
    for key in WORDS["en"]:
        placeholders = [set(re.findall(r"\{\w+\}", json.dumps(WORDS[language][key]))) for language in LANGUAGES]
        assert placeholders[0] == placeholders[1], key
        assert type(WORDS["de"][key]) is type(WORDS["en"][key]), key


def test_levels_are_named_as_in_watch() -> None:
    for level in BoardLevel:
        assert WORDS["en"][f"level.{level.name.lower()}"] == level_word(level)


@pytest.mark.parametrize("language", LANGUAGES)
def test_urgent_levels_are_in_capitals_in_every_language(language: str) -> None:
    for level in BoardLevel:
        assert WORDS[language][f"level.{level.name.lower()}"].isupper() == level_word(level).isupper()


def test_each_alarm_reason_and_level_has_advice_as_in_watch() -> None:
    advised = {key.removeprefix("todo.") for key in WORDS["en"] if key.startswith("todo.")}
    assert advised - {"other"} == ADVICE.keys()


def test_each_alarm_and_reason_of_health_has_words() -> None:
    names = {*REASONS, *(rule.name for rule in ALARMS)}
    assert {f"phrase.{name}" for name in names} <= set(WORDS["en"])


def test_each_event_that_the_journal_always_keeps_has_words() -> None:
    assert {f"event.{name}" for name in journal._UNLIMITED_EVENTS} <= set(WORDS["en"])


def test_each_end_of_an_agents_run_has_words() -> None:
    assert {f"value.reason.{end}" for end in (FAILED, KILLED, MODEL_CHANGED, WITHOUT_POWER)} <= set(WORDS["en"])


def test_each_word_that_a_screen_names_exists() -> None:
    named = {
        key
        for path in STATIC.glob("*.js")
        for key in re.findall(r'\b(?:t|note)\(\s*"([^"]+)"', path.read_text("utf-8"))
    }
    assert named
    assert named <= set(WORDS["en"])


def test_each_fault_and_reason_that_the_server_names_has_words() -> None:
    faults = re.findall(r'code="(\w+)"', inspect.getsource(feedback))
    reasons = ["silence", *re.findall(r'"reason": "(\w+)"', inspect.getsource(checks))]
    assert len(faults) >= 2
    assert len(reasons) >= 4
    levels = [level.name.lower() for level in SILENT_LEVELS]
    named = {*(f"fault.{code}" for code in faults), *(f"reason.{code}" for code in reasons)}
    assert named | {f"fault.no_result.{level}" for level in levels} <= set(WORDS["en"])


def test_only_dom_js_creates_elements_and_nothing_takes_markup() -> None:
    for path in STATIC.glob("*.js"):
        text = path.read_text("utf-8")
        assert path.name == "dom.js" or "createElement" not in text, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|DOMParser|document\.write|eval\(|srcdoc", text), path


def test_no_style_or_script_stands_in_the_page() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)|https?:", page)
