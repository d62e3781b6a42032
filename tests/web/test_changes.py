"""What the page polls: rows of the boards that have changed."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.mqtt.link import FailedAt
from edge_agent.tools.watch.site import Site
from edge_agent.web.known import KnownBoards
from tests.tools.watch import boards
from tests.web.pages import Page, said


def of_board(device: str, **health: object) -> list[object]:
    return [said(f"{device}/state", boards.state()), said(f"{device}/health", boards.health(at=time.time(), **health))]


def page_of(*devices: str) -> Page:
    page = Page()
    page.hear(*(message for device in devices for message in of_board(device)))  # type: ignore[arg-type]
    return page


def test_before_the_first_board_there_are_none() -> None:
    changes = Page().changes()
    assert (changes["boards"], changes["order"], changes["counts"], changes["pools"]) == ([], [], {}, [])


def test_the_figures_of_a_pool_are_those_of_its_boards_together() -> None:
    page = page_of("a")
    for device, places in (("b", 4), ("c", 2)):
        pool = {"name": "presses", "places": places, "per_minute": None if device == "b" else 30}
        page.hear(*of_board(device, pool=pool))  # type: ignore[arg-type]
    assert page.changes()["pools"] == [{"name": "presses", "boards": 2, "places": 6, "per_minute": 30}]


def test_more_boards_than_the_page_shows_leave_no_trace() -> None:
    site = Site("edgeai/v1", "hall1", 2)
    for device in "abc":
        site.receive(said(f"{device}/state", boards.state()), time.time())
    assert site.devices == ["a", "b"]
    assert site.is_full
    for number in range(100):
        site.receive(said(f"a/alarm/x{number}", b"{}"), time.time())
    assert len(site._boards["a"]._documents) <= 64


def test_names_that_no_board_may_have_are_forgotten_with_the_process(tmp_path: Path) -> None:
    site = Site("edgeai/v1", "hall1")
    for device in ("press-04", "x" * 2_000_000):
        site.receive(said(f"{device}/state", boards.state()), time.time())
    known = KnownBoards(tmp_path / "boards.json")
    known.update(site.rows(0.0), 1e9)
    known.save()
    assert KnownBoards(tmp_path / "boards.json").read(1e9 + 60).keys() == {"press-04"}


def test_when_boards_were_heard_is_written_every_ten_minutes_or_at_the_end(tmp_path: Path) -> None:
    site = Site("edgeai/v1", "hall1")
    known = KnownBoards(tmp_path / "boards.json")

    def written_after(passed_s: float, *, is_last: bool = False) -> dict[str, float | None]:
        rows = [replace(row, health_age_s=0.0) for row in site.rows(0.0)]
        known.update(rows, 1e9 + passed_s)
        known.save(is_last=is_last)
        return KnownBoards(tmp_path / "boards.json").read(1e9 + passed_s)

    site.receive(said("press-04/state", boards.state()), time.time())
    assert written_after(0) == {"press-04": 0.0}
    assert written_after(590) == {"press-04": 590.0}
    assert written_after(600) == {"press-04": 0.0}
    assert written_after(660, is_last=True) == {"press-04": 0.0}
    site.receive(said("press-05/state", boards.state()), time.time())
    assert written_after(720) == {"press-04": 0.0, "press-05": 0.0}


def test_a_board_of_which_nothing_but_retained_messages_was_heard_is_known_without_a_time(tmp_path: Path) -> None:
    page = Page()
    page.hear(said("press-04/state", boards.will(), is_retained=True))
    known = KnownBoards(tmp_path / "boards.json")
    known.update(page.live.rows.values(), 1e9)
    known.save()
    assert KnownBoards(tmp_path / "boards.json").read(1e9 + 60) == {"press-04": None}


def test_before_the_first_connection_known_boards_are_shown_as_unknown() -> None:
    page = Page()
    page.live._feed.remember({"press-04": 60.0})
    page.live._update_rows(time.monotonic(), time.time())
    (row,) = page.changes()["boards"]
    assert (row["level"], row["why"]) == ("unknown", ["not heard yet: no connection to the broker"])


def test_the_worst_board_is_first_and_each_level_is_counted() -> None:
    page = page_of("a", "b")
    page.hear(said("b/health", boards.health(at=time.time(), overall="critical", reasons=["overheating"])))
    changes = page.changes()
    assert changes["order"] == ["b", "a"]
    assert changes["counts"] == {"critical": 1, "ok": 1}
    rows = {row["device"]: row for row in changes["boards"]}
    assert rows["b"]["level"] == "critical"
    assert rows["b"]["why"] == ["overheating"]
    assert rows["a"]["queue"] == [2, 64]
    assert rows["a"]["soc_c"] == 61.5


def test_a_viewer_gets_only_boards_that_have_changed_since_its_cursor() -> None:
    page = page_of("a", "b")
    first = page.changes()
    assert first["is_whole"]
    page.update()
    assert page.changes(first["cursor"])["boards"] == []
    page.hear(said("b/health", boards.health(at=time.time(), thermal__soc_c=70)))
    second = page.changes(first["cursor"])
    assert not second["is_whole"]
    assert [row["device"] for row in second["boards"]] == ["b"]


def test_a_board_that_went_is_named_once() -> None:
    page = page_of("a", "b")
    first = page.changes()
    page.site = page_of("a").site
    page.update()
    second = page.changes(first["cursor"])
    assert second["gone"] == ["b"]
    assert second["order"] == ["a"]
    assert page.changes(second["cursor"])["gone"] == []


def test_a_cursor_of_another_process_gets_everything() -> None:
    page = page_of("a")
    cursor = page.changes()["cursor"]
    for other in (0, cursor - 1_000_000_000, cursor + 1):
        changes = page.changes(other)
        assert changes["is_whole"]
        assert len(changes["boards"]) == 1


def test_a_stale_board_has_no_figures() -> None:
    page = Page()
    page.hear(said("a/state", boards.state()), said("a/health", boards.health(at=time.time() - 100), is_retained=True))
    row = page.changes()["boards"][0]
    assert row["level"] == "stale"
    assert (row["queue"], row["soc_c"], row["watts"]) == (None, None, None)


def test_the_begin_of_a_level_is_known_unless_it_may_have_begun_before_the_process() -> None:
    page = Page()
    page.site.remember("a", 1000.0, 600.0)
    page.site.on_connected(1000.0)

    def now(at: float) -> tuple[str, float | None]:
        page.live.take_rows(page.site.rows(1000.0 + at), 1e9 + at)
        (board,) = page.changes()["boards"]
        return board["level"], board["since"]

    assert [now(at) for at in (1, 20, 21)] == [("unknown", None), ("offline", None), ("offline", None)]
    page.site.receive(replace(said("a/state", boards.state()), received_at=1030.0), time.time())
    page.site.receive(replace(said("a/health", boards.health()), received_at=1030.0), time.time())
    assert [now(at) for at in (30, 35.1)] == [("ok", 1e9 + 30), ("ok", 1e9 + 30)]


def test_control_and_bidi_characters_of_a_board_arrive_escaped() -> None:
    page = page_of("a")
    page.hear(said("a/health", boards.health(at=time.time(), overall="degraded", reasons=["\x1b[31m\u202eevil"])))
    assert page.changes()["boards"][0]["why"] == ["\\x1b[31m\\u202eevil"]


@pytest.mark.expects_warning
def test_a_broker_that_refuses_the_account_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    live = Page().live
    live._feed.client.failed_at, live._feed.client.reason = FailedAt.REFUSED, "Not authorized"
    for _ in range(3):
        live._note_connection(time.monotonic(), time.time())
    assert [record.getMessage() for record in caplog.records if "refuses" in record.message] == [
        f"the broker {live._feed.broker} refuses the connection: Not authorized"
    ]
