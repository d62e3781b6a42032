"""`edge-agent accuracy`: what kept answers say. tests/contract/test_feedback.py asks a board for them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edge_agent import cli
from edge_agent.core.config import MqttConfig
from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.commands.accuracy import accuracy
from edge_agent.learning.commands.accuracy.measures import drop_words, evidence_words, measure
from edge_agent.learning.commands.accuracy.page import render_page
from edge_agent.learning.maths.calibration import JudgedAnswer, bins
from edge_agent.learning.maths.export import Export, read_export
from edge_agent.learning.maths.numbers import MAX_AUDITS, JudgedNumber, falls_short
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.web.promise import promises
from tests.helpers.processes import EdgeAgent

BUS = Bus(mqtt=MqttConfig(), site="plant", device="b1")


def answer(number: int, score: float, label: str | None, **more: Any) -> dict[str, Any]:
    """An answer with the labels a and b, of which a has this score and is the output."""
    fields = {"at": None, "output": "a", "is_marked": True, "is_audit": True, **more}
    return {"number": number, "scores": {"a": score, "b": 1 - score}, "label": label, **fields}


def export(*answers: dict[str, Any], **more: Any) -> Export:
    fields = {"task": "t", "definition": "d", "model": "m", "map": None, "prior": None, "since": 0, **more}
    return Export.model_validate({"schema": 1, "site": "plant", "device": "b1", "answers": answers, **fields})


def test_audits_measure_and_other_feedback_does_not() -> None:
    audits = [answer(number, 0.9, "a" if number % 10 else "b") for number in range(1, 101)]
    others = [answer(number, 0.9, "b", is_audit=False) for number in range(101, 121)]
    fields = {"is_marked": False, "is_audit": False}
    silent = [answer(number, 0.6, None, is_refused=number % 4 == 0, **fields) for number in range(121, 201)]
    found = measure(export(*audits, *others, *silent))
    assert (found.answers, found.given) == (200, 0.9)
    assert measure(export(*audits, *others, *silent, min_score=0.7)).given == 0.6
    later = [one | {"number": one["number"] + 200} for one in (*audits, *silent)]
    assert measure(export(*audits, *others, *silent, *later, min_score=0.7)).given == 0.5
    assert (found.audits.right, found.audits.total) == (90, 100)
    # R: binom.test(90, 100)$conf.int
    assert found.audits.low == pytest.approx(0.8238, abs=1e-4)
    assert found.audits.high == pytest.approx(0.9510, abs=1e-4)
    assert (found.feedback.right, found.feedback.total) == (90, 120)
    assert found.calibration is not None
    assert found.calibration.after == pytest.approx(0.0, abs=1e-9)
    assert found.confusion == {"a": (90, 0), "b": (30, 0)}
    # R: binom.test(90, 100, alternative = "greater")$conf.int
    assert found.coverage[0].low == pytest.approx(0.8363, abs=1e-4)


def test_audits_from_before_a_drop_do_not_measure() -> None:
    answers = [answer(number, 0.9, "a" if number > 5 else "b") for number in range(1, 11)]
    found = measure(export(*answers, since=5))
    assert (found.audits.right, found.audits.total, found.feedback.total) == (5, 5, 10)
    assert (found.confusion, found.audit_confusion) == ({"a": (5, 0), "b": (5, 0)}, {"a": (5, 0), "b": (0, 0)})


def test_audits_that_no_longer_count_are_named_with_their_time() -> None:
    asked = [f"2026-12-01T10:00:0{number}.000Z" for number in range(9)]
    answers = [answer(number, 0.9, "b", at=asked[number]) for number in range(1, 6)]
    others = [
        answer(6, 0.9, None, at=asked[6], is_marked=False),
        answer(7, 0.9, "b", at=asked[7], is_audit=False),
        answer(8, 0.9, "a", at=asked[8]),
    ]
    fallen = export(*answers, *others, since=7)
    found = measure(fallen)
    assert (found.audits.total, found.evidence.before_drop, found.evidence.before_drop_until) == (1, 5, asked[5])
    words = (
        f"5 answered audits, the last asked at {asked[5]}, no longer count, because the accuracy fell: the board "
        "learns from them instead."
    )
    assert words in accuracy.lines(fallen, found)
    assert words in render_page(fallen, found)
    none = export(*answers, since=5)
    page = render_page(none, measure(none))
    assert "No audit that counts is answered yet" in " ".join(page.split())
    timeless = export(answer(1, 0.9, "b"), since=1)
    assert drop_words(measure(timeless)).startswith("1 answered audits no longer count, because")
    whole = export(*answers, *others)
    assert "no longer" not in "\n".join(accuracy.lines(whole, measure(whole)))


def test_answers_without_output_and_labels_of_no_name_have_a_place_of_their_own() -> None:
    found = measure(export(answer(1, 0.9, None), answer(2, 0.9, "b", output=None)))
    assert found.outputs == ("a", "b", "(unsure)")
    assert found.confusion == {"a": (0, 0, 0), "b": (0, 0, 1), "(another)": (1, 0, 0)}


def test_a_map_changes_what_is_right_and_how_sure_it_is() -> None:
    answers = [answer(number, 0.6, "b") for number in range(1, 51)]
    swapped = ScoreMap(("a", "b"), (1.0, 1.0), (0.0, 3.0)).to_json()
    assert measure(export(*answers)).audits.right == 0
    found = measure(export(*answers, map=swapped))
    assert found.audits.right == 50
    assert (found.confusion["b"], found.audit_confusion["b"]) == ((50, 0), (0, 50))
    assert found.calibration is not None
    assert found.calibration.before == pytest.approx(0.6)
    assert found.calibration.after < 0.1


def test_a_promise_names_its_coverage_or_the_audits_that_are_missing() -> None:
    right = [answer(number, 0.9, "a") for number in range(1, 59)]
    assert [measure(export(*right, min_accuracy=asked)).given for asked in (0.9, 0.95)] == [1.0, 0.0]
    refused = answer(59, 0.9, None, output=None, is_audit=False, is_marked=False, is_refused=True)
    assert measure(export(*right, refused, min_accuracy=0.9)).given == pytest.approx(58 / 59)
    wrong = [answer(number, 0.9, None, output=None, is_refused=True) for number in range(60, 70)]
    found = measure(export(*right, *wrong, min_accuracy=0.9))
    # What is never given breaks no promise.
    assert found.given == pytest.approx(58 / 68)
    assert (found.audits.right, found.audits.total) == (58, 68)
    words = "Audits of refused inputs (10 of the answered ones) count in the other tables, but not for promises"
    assert words in evidence_words(found)
    assert found.promises[1].missing == found.promises[1].missing_for_all == 1
    never = measure(export(*wrong)).promises[0]
    assert (never.coverage, never.missing, never.missing_for_all) == (None, 29, 29)
    nine, more, most = measure(export(*right)).promises
    assert (nine.coverage, nine.missing, nine.missing_for_all) == (1.0, 0, 0)
    # 59 right ones of 59 prove 0.95, 299 of 299 prove 0.99.
    assert (more.coverage, more.missing) == (None, 1)
    assert most.missing == 241


def test_the_audits_missing_to_give_all_answers_are_the_number_of_the_page() -> None:
    answers = [answer(number, 0.9, "a") for number in range(1, 29)]
    answers += [answer(number, 0.55, "b") for number in range(29, 31)]
    nine = measure(export(*answers)).promises[0]
    health = {"asked": 30, "audits": 30, "accuracy": 28 / 30}
    (shown, _) = promises({"labels": ["a", "b"], "audit_rate": 0.1}, health)
    assert nine.missing < nine.missing_for_all == shown["more"]


@pytest.mark.parametrize(("rare", "is_noted"), [(2, True), (40, False)])
def test_a_promise_that_one_frequent_answer_would_keep_too_is_noted(rare: int, is_noted: bool) -> None:  # noqa: FBT001
    # All of the model's answers are right.
    frequent = [answer(number, 0.9, "a") for number in range(1, 101)]
    others = [answer(number, 0.1, "b", output="b") for number in range(101, 101 + rare)]
    words = evidence_words(measure(export(*frequent, *others)))
    assert ("Always answering a would keep 0.9, too: look at" in words) is is_noted


def test_promises_rest_on_what_the_board_itself_takes_for_evidence() -> None:
    held_out = [[0.9, 40, 40], [0.4, 5, 10]]
    found = measure(export(held_out=held_out, min_accuracy=0.8, confidence=0.9))
    # Before the first answer, too.
    assert (found.answers, found.given, found.evidence.held_out) == (0, 1.0, 50)
    assert [(one.min_accuracy, one.score) for one in found.promises] == [
        (0.8, 0.0),
        (0.9, 0.5),
        (0.95, None),
        (0.99, None),
    ]
    assert found.promises[2].missing == 5  # log(0.1) / log(0.95) = 44.9
    # Proven for the surest answers alone, 45 right rows of 50 do not prove it of all.
    assert [(one.missing, one.missing_for_all > 0) for one in found.promises[:2]] == [(0, False), (0, True)]
    assert "100.0 % of the newest would be given now.\n" in render_page(export(held_out=held_out), found)
    nine, five = ([answer(number, 0.9, "a" if number > wrong else "b") for number in range(1, 11)] for wrong in (1, 5))
    found = measure(export(*nine, held_out=held_out, earlier=3))
    assert (found.evidence.audits, found.evidence.held_out, found.evidence.contradicted) == (10, 50, 0)
    assert "10 answered audits of 10, 3 of which an earlier model was asked first, and 50 rows" in evidence_words(found)
    found = measure(export(*five, held_out=[[0.9, 99, 100]], earlier=3))
    assert "3 of which an earlier model was asked first, and no longer on 100 rows" in evidence_words(found)
    assert (found.evidence.held_out, found.evidence.contradicted) == (0, 100)
    assert "no longer on 100 rows that the training held out, which these contradict" in evidence_words(found)
    choice = [answer(number, 0.9, "a", is_marked=number % 2 == 0) for number in range(1, 101)]
    found = measure(export(*choice))
    assert found.promises[0].coverage is None
    # Those that have waited since the last answered one count once a newer one is answered.
    assert (found.evidence.asked, found.evidence.open, found.promises[0].missing) == (100, 0, 40)
    assert "none without 90 % of the audits answered: answer 40 more of those 100" in evidence_words(found)
    found = measure(export(*(answer(number, 0.9, "a", is_marked=number < 60) for number in range(1, 101))))
    assert evidence_words(found) == (
        "Promises rest on 59 answered audits of 59. 41 newer audits wait for an answer."
        " Always answering a would keep 0.95, too: look at each right label by itself."
    )


def test_a_score_of_one_is_in_the_last_bin() -> None:
    judged = [JudgedAnswer(score, is_right) for score, is_right in ((1.0, True), (0.95, False), (0.05, False))]
    assert bins(judged) == [(1, 0.05, 0.0), (2, 0.975, 0.5)]


def pages_of(*answers: dict[str, Any], per_page: int, definitions: str = "dddd") -> Any:
    """A board that gives `per_page` answers a page."""
    asked: list[dict[str, Any]] = []

    def ask(fields: dict[str, Any]) -> dict[str, Any]:
        asked.append(fields)
        left = [one for one in answers if one["number"] > fields["after"]]
        facts = {"task": "t", "definition": definitions[len(asked) - 1], "model": "m", "map": None, "prior": None}
        end = left[per_page - 1]["number"] if len(left) > per_page else None
        return {"status": "ok", "data": {**facts, "since": 0, "next": end, "answers": left[:per_page]}}

    return ask


def test_all_pages_are_fetched_and_kept_in_a_file_that_is_read_again() -> None:
    answers = [answer(number, 0.7, "a") for number in (1, 2, 5, 9, 10)]
    found = accuracy.fetch("t", BUS, pages_of(*answers, per_page=2))
    assert [one.number for one in found.answers] == [1, 2, 5, 9, 10]
    assert found.board == "plant/b1"
    assert read_export(found.encode()) == found
    with pytest.raises(NoAnswerError, match="changed in the meantime"):
        accuracy.fetch("t", BUS, pages_of(*answers, per_page=2, definitions="dde"))


def test_numbers_say_how_near_they_are_and_what_their_intervals_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        {"at": None, "number": number, "interval": [10.0, 40.0], "output": 20.0, "label": 22.0 if number <= 8 else 50.0,
         "is_marked": number <= 10, "is_audit": number != 1}
        for number in range(1, 13)
    ]  # fmt: skip
    answers += [answers[1] | {"number": number, "interval": None, "output": None} for number in (13, 14)]
    facts = {"task": "t", "kind": "estimate", "definition": "d", "model": "m", "confidence": 0.8, "unit": "h"}
    page = {"status": "ok", "data": {**facts, "next": None, "answers": answers}}
    monkeypatch.setattr(accuracy, "send_command", lambda *_, **__: page)
    arguments: dict[str, Any] = {"html": None, "out": None, "timeout_s": 1.0}
    assert accuracy.accuracy(BUS, "t", as_json=True, **arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answers"], found["audits"]["total"], found["feedback"]["total"]) == (14, 9, 10)
    assert (found["given"], found["refused"]) == (12 / 14, 2)
    assert (found["audits"]["mean_error"], found["audits"]["held"]) == (pytest.approx((7 * 2 + 2 * 30) / 9), 7)
    # R: binom.test(7, 9)$conf.int
    assert found["audits"]["held_low"] == pytest.approx(0.3999, abs=1e-4)
    assert not found["falls_short"]
    assert accuracy.accuracy(BUS, "t", as_json=False, **arguments) == 0
    printed = capsys.readouterr().out
    assert "t of plant/b1: 14 answers kept; 85.7 % of the newest readings got a number\n" in printed
    assert re.search(r"audits +9 +8\.222 h +0 h to 17\.\d+ h +7 +77\.8 %", printed)
    assert "Answered audits of readings that got no number, not counted in these figures: 2\n" in printed
    assert accuracy.accuracy(BUS, "t", as_json=False, **arguments | {"html": Path("x.html")}) == cli.EXIT_FAILED
    assert "--html shows labels" in capsys.readouterr().err


@pytest.mark.parametrize(("total", "held", "is_short"), [(0, 0, False), (5, 0, False), (6, 0, True), (100, 70, False)])
def test_intervals_fall_short_where_chance_does_not_explain_it(total: int, held: int, is_short: bool) -> None:  # noqa: FBT001
    # R: pbinom(0, 5, 0.8) = 3.2e-4, pbinom(0, 6, 0.8) = 6.4e-5, pbinom(70, 100, 0.8) = 1.1e-2
    judged = [JudgedNumber(1.0, is_held=number < held) for number in range(total)]
    assert falls_short(judged, 0.8) == is_short
    # Older audits do not count.
    assert not falls_short([*judged, *[JudgedNumber(1.0, is_held=True)] * MAX_AUDITS], 0.8)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"schema": 2}, "schema"),
        ({"answers": [answer(1, 1.5, "a")]}, "scores"),
        ({"answers": [answer(1, 0.5, "a"), {**answer(2, 0.5, "a"), "scores": {"c": 1.0}}]}, "different labels"),
        ({"map": {"a": [1, 0], "c": [1, 0]}}, "the task's labels"),
        ({"map": {"a": [1, 0], "b": [1e9, 0]}}, "finite"),
    ],
)
def test_a_file_that_is_no_export_is_refused(changes: dict[str, Any], fault: str) -> None:
    document = export(answer(1, 0.5, "a")).model_dump(mode="json", by_alias=True) | changes
    with pytest.raises(ValueError, match=fault):
        read_export(json.dumps(document).encode())


def test_the_tables_name_the_figures() -> None:
    found = export(*(answer(number, 0.9, "a") for number in range(1, 59)))
    text = "\n".join(accuracy.lines(found, measure(found)))
    assert "t of plant/b1: 58 answers kept; 100.0 % of the newest would be given now" in text
    assert re.search(r"audits +58 +58 +100\.0 % +93\.8 % to 100\.0 %", text)
    assert "expected calibration error of 58 audits: 10.0 % as the model scores, 10.0 % with the map in force" in text


def test_without_feedback_there_is_no_matrix_of_zeros() -> None:
    kept = answer(1, 0.9, None, is_marked=False)
    feedback = answer(1, 0.9, "a", is_audit=False)
    for marked, titles in ((kept, []), (feedback, ["all feedback"]), (answer(1, 0.9, "a"), ["audits", "all feedback"])):
        found = export(marked)
        heads = re.findall(r"Right labels .*, (.*)", "\n".join(accuracy.lines(found, measure(found))))
        assert heads == titles


def test_the_page_is_whole_and_loads_nothing() -> None:
    labels = ("<b>$x$</b>", "\u6e29\u5ea6")
    scored = {"output": labels[0], "scores": dict(zip(labels, (0.7, 0.3), strict=True))}
    found = export(*(answer(number, 0.9, labels[number % 3 == 0], **scored) for number in range(1, 41)))
    page = render_page(found, measure(found))
    assert page == render_page(found, measure(found))
    assert page.count("<svg ") == 4
    assert "&lt;b&gt;$x$&lt;/b&gt;" in page
    assert "<b>" not in page
    assert not re.search(r"https?://|<script|<link|<img|@import|#0102", page)
    assert "prefers-color-scheme: dark" in page
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names))
    unmarked = export(answer(1, 0.9, None, is_marked=False))
    assert "<svg" not in render_page(unmarked, measure(unmarked))


def test_a_page_without_its_extra_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, edge_agent: EdgeAgent) -> None:
    monkeypatch.setattr("edge_agent.core.extras.find_spec", lambda _: None)
    bus = ("--host", "127.0.0.1", "--port", "1", "--site", "s", "--device", "d")
    done = edge_agent("accuracy", "t", *bus, "--html", "x")
    assert (done.returncode, "pip install '.[plots]' in a copy of the repository" in done.stderr) == (1, True)


def test_what_a_board_refuses_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    refused = {"status": "failed", "error": {"code": "not_enabled", "message": "m"}}
    monkeypatch.setattr(accuracy, "send_command", lambda *_, **__: refused)
    arguments: dict[str, Any] = {"as_json": False, "html": None, "timeout_s": 1.0}
    assert accuracy.accuracy(BUS, "t", out=tmp_path / "o", **arguments) == cli.EXIT_OTHER_STATUS
    assert "not_enabled" in capsys.readouterr().out
    assert not (tmp_path / "o").exists()
    monkeypatch.setattr(accuracy, "send_command", lambda _, __, fields, **___: pages_of(per_page=2)(fields))
    assert accuracy.accuracy(BUS, "t", out=None, **arguments) == cli.EXIT_FAILED
    assert "has no answer kept for task t" in capsys.readouterr().err
