"""The screen of one board, and the plain table."""

import json
import time
from typing import Any

from tests.tools.watch import boards
from tests.web.pages import Page, said

INFO = {
    "tasks": {
        "triage": {"kind": "classify", "labels": ["ok", "<script>"], "publish": "plant/{1}/t", "audit_rate": 0.05},
        "bad": 1,
    },
    "models": [{"name": "pump-demo", "quantization": "Q8_0"}],
}


def page_of(**health: Any) -> Page:
    page = Page()
    page.hear(
        said("press-04/state", boards.state()),
        said("press-04/info", json.dumps(INFO).encode()),
        said("press-04/health", boards.health(at=time.time(), **health)),
    )
    return page


def board(page: Page) -> Any:
    return page.client.get("/api/v1/boards/press-04").json()


def test_a_board_comes_with_its_row_and_its_tasks() -> None:
    page = page_of(accuracy={"triage": {"audits": 3, "asked": 3, "accuracy": 1.0}})
    details = board(page)
    assert details["board"]["model"] == "pump-demo Q8_0"
    (task,) = details["tasks"]
    assert task["name"] == "triage"
    assert task["labels"] == ["ok", "<script>"]
    assert task["audit_rate"] == 0.05
    assert task["min_accuracy"] is None
    assert task["accuracy"] == {"audits": 3, "asked": 3, "accuracy": 1.0}
    assert (task["promise"]["target"], task["promise"]["more"]) == (0.9, 26)


def test_signals_show_each_value_with_its_age_and_what_a_machine_lacks() -> None:
    page = page_of(signals={"pump": {"machines": 2, "lacking": {"M8": ["pressure_bar"]}}, "line": {"machines": 0}})
    values = {"machines": {"M7": {"vibration_mm_s": [7.9, 0.4], "pressure_bar": [None, None]}}, "left_out": 0}
    page.live.signals.receive(said("press-04/signals/pump", json.dumps(values).encode()), 1000.0)
    line, pump = board(page)["signals"]
    assert (line["name"], line["at"], line["machines"]) == ("line", None, [])
    assert (pump["name"], pump["at"]) == ("pump", 1000.0)
    assert pump["machines"] == [
        {
            "machine": "M7",
            "values": [
                {"name": "vibration_mm_s", "value": 7.9, "age_s": 0.4},
                {"name": "pressure_bar", "value": None, "age_s": None},
            ],
            "lacking": [],
        },
        {"machine": "M8", "values": [], "lacking": ["pressure_bar"]},
    ]


def test_signals_that_are_nonsense_show_nothing() -> None:
    page = page_of(signals={"pump": 3})
    for payload in (b"{", b"[]", b'{"machines": [1]}', b'{"machines": {"M7": 3, "M8": {"x": {"a": 1}}}}'):
        page.live.signals.receive(said("press-04/signals/pump", payload), 1000.0)
        for machine in board(page)["signals"][0]["machines"]:
            assert all(value["value"] is None for value in machine["values"])


def test_a_board_that_is_not_there_is_said_to_be_unknown() -> None:
    response = page_of().client.get("/api/v1/boards/press-99")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_board"


def test_control_and_bidi_characters_are_escaped_wherever_they_stand() -> None:
    page = page_of(**{"reasons": ["\u202e"], "\x1b[31m": {"\u202e": ["\x07"]}})
    for path in ("/api/v1/boards/press-04", "/api/v1/changes", "/boards.txt"):
        text = page.client.get(path).text
        assert text
        assert not any(character in text for character in "\x1b\x07\u202e")
        assert "\\u001b" not in text.lower()


def test_the_plain_table_is_that_of_watch() -> None:
    response = page_of(overall="degraded", reasons=["thermal"]).client.get("/boards.txt")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "press-04" in response.text
    assert "WHAT IS WRONG" in response.text
    assert "thermal" in response.text
