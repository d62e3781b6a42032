"""Rows -> lines of a screen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edge_agent.tools.watch.cells import cropped, safe, shortened
from edge_agent.tools.watch.columns import short
from edge_agent.tools.watch.drawing import ORDERS, screen, table
from edge_agent.tools.watch.site import Site
from tests.tools.watch import boards
from tests.tools.watch.scenes import SECONDS, a_site, mixed_site, plain, say, view_of


def test_a_board_takes_a_line_of_80_columns() -> None:
    head, line = plain(view_of(a_site("conveyor-01")))[1:]
    assert " ".join(head.split()) == "BOARD STATE TEMP ROOM THROTTLE QUEUE TOK/S WATTS TEMP 5 MIN"
    assert line.split()[:8] == ["conveyor-01", "ok", "56°", "29°", "no", "2/64", "11.4", "6.2"]
    assert set(line.split()[8]) <= set("▁▂▃▄▅▆▇█")
    assert len(line.split()[8]) == 15


def test_what_to_do_is_not_cut_off_where_there_is_room_for_a_second_line() -> None:
    site = a_site("press-04")
    told = "the SoC has 84.4 °C, its limit is 85 °C: cool the board or ask less"
    say(site, "press-04", "alarm/overheating", boards.alarm(told, severity="critical"))
    lines = plain(view_of(site))[3:]
    assert lines == [
        "  !! overheating for 9 min: the SoC has 84.4 °C, its limit is 85 °C: cool the",
        "      board or ask less",
    ]
    assert len(plain(view_of(site), 120)) == 4
    for name in ("disk-low", "memory-low"):
        say(site, "press-04", f"alarm/{name}", boards.alarm(f"{told}, {told}"))
    assert [line[:6] for line in plain(view_of(site))[3:]] == ["  !! o", "  ! di", "  ! me"]


def test_what_is_unknown_is_a_dash_and_never_0() -> None:
    site = Site("r", "hall1")
    say(site, "cabinet", "state", boards.state())
    say(site, "cabinet", "health", boards.nothing_known())
    (line,) = plain(view_of(site, 1))[2:]
    assert line.split() == ["cabinet", "ok", "–", "–", "–", "2/64", "–", "–"]


def test_zero_is_zero() -> None:
    site = Site("r", "hall1")
    say(site, "idle", "state", boards.state())
    zero: dict[str, Any] = {"queue__depth": 0, "inference__decode_tok_s": 0, "power__watts": 0, "thermal__soc_c": 0}
    say(site, "idle", "health", boards.health(**zero, thermal__headroom_c=0))
    (line,) = plain(view_of(site, 1))[2:]
    assert line.split()[:8] == ["idle", "ok", "0°", "0°", "no", "0/64", "0", "0"]


def test_what_is_wrong_stands_below_its_board() -> None:
    lines = plain(view_of(mixed_site()))
    assert [line.split()[:2] for line in lines[2:] if not line.startswith(" ")] == [
        ["press-04", "CRITICAL"],
        ["oven-2", "OFFLINE"],
        ["lathe-01", "STALE"],
        ["press-05", "degraded"],
        ["cabinet", "ok"],
        ["conveyor-01", "ok"],
        ["conveyor-02", "ok"],
    ]
    place = lines.index("  !! overheating for 4 min: 84.4 °C, the firmware slows down at 85 °C")
    assert lines[place - 1].split()[:8] == ["press-04", "CRITICAL", "84°", "1°", "thermal", "57/64", "3.2", "6.2"]
    assert "  connection-lost; last health 110 s ago: 48 °C, 2 waiting" in lines
    assert "  last health 90 s ago, due every 10 s: 53 °C, 2 waiting" in lines


def test_watts_of_less_than_the_board_say_of_what() -> None:
    site = a_site("b")
    say(site, "b", "health", boards.health(31, power__watts=3.14, power__scope="soc"), 300)
    assert " 3.1 s " in plain(view_of(site))[2]


def test_a_board_that_was_throttled_earlier_says_so() -> None:
    site = a_site("b")
    say(site, "b", "health", boards.health(31, thermal__throttled_since_boot=True), 300)
    assert plain(view_of(site))[2].split()[4] == "earlier"


def test_a_curve_is_blank_where_nothing_was_heard() -> None:
    site = a_site("b")
    assert plain(view_of(site, SECONDS + 150))[2].rstrip()[-1] in "▁▂▃▄▅▆▇█"
    line = table(view_of(site, SECONDS + 150), 80)[2].plain
    assert line.rstrip() == line[: len(line) - 5].rstrip()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_screen_is_full_and_nothing_is_wider_than_it(width: int, count: int) -> None:
    view = view_of(a_site(*(f"board-{number:02}" for number in range(count))))
    for height in (24, 60):
        drawn = screen(view, width, height, 0, "worst first")
        assert len(drawn.lines) == height
        assert max(line.cell_len for line in drawn.lines) <= width
        assert drawn.lines[-1].plain.startswith("q quit")
        assert drawn.boards == min(count, height - 3)


def test_wider_screens_have_more_columns_and_longer_curves() -> None:
    heads = [plain(view_of(a_site("b")), width)[1] for width in (80, 120, 200)]
    assert len(heads[0].split()) < len(heads[1].split()) < len(heads[2].split())
    assert heads[2].endswith("MODEL")
    curves = [plain(view_of(a_site("b")), width)[2].split()[8] for width in (80, 200)]
    assert (len(curves[0]), len(curves[1])) == (15, 30)


def test_fifty_boards_are_reached_by_scrolling_and_the_last_one_ends_the_screen() -> None:
    view = view_of(a_site(*(f"board-{number:02}" for number in range(50))))
    first = screen(view, 80, 24, 0, "worst first")
    assert "boards 1–21 of 50" in first.lines[-1].plain
    last = screen(view, 80, 24, 10**9, "worst first")
    assert (last.offset, last.boards) == (29, 21)
    assert last.lines[-2].plain.startswith("board-49")
    assert "boards 30–50 of 50" in last.lines[-1].plain


def test_scrolling_starts_at_a_board_and_not_at_its_details() -> None:
    view = view_of(mixed_site())
    for offset in range(7):
        drawn = screen(view, 80, 8, offset, "worst first")
        assert not drawn.lines[2].plain.startswith(" ")


def test_a_site_without_boards_says_where_it_looked() -> None:
    view = view_of(Site("r", "hall1"))
    assert "no board on edgeai/v1/hall1/+ yet" in screen(view, 80, 24, 0, "worst first").lines[2].plain
    assert plain(view)[0].startswith("hall1  0 boards")


def test_a_lost_connection_is_above_everything() -> None:
    view = view_of(a_site("b"), trouble="no connection to the broker broker.example:1883 for 12 s: timed out")
    assert screen(view, 80, 24, 0, "worst first").lines[1].plain.startswith("no connection to the broker")
    assert plain(view)[1].startswith("no connection to the broker")


def test_orders() -> None:
    view = view_of(mixed_site())
    names = {
        order: [line.plain.split()[0] for line in screen(view, 80, 40, 0, order).lines[2:-1] if line.plain[:1].strip()]
        for order in ORDERS
    }
    assert names["worst first"][0] == "press-04"
    assert names["by name"] == sorted(names["by name"])
    assert names["hottest first"][0] == "press-04"
    assert set(names["hottest first"][-3:]) == {"cabinet", "lathe-01", "oven-2"}


def test_names_may_be_long_wide_or_malicious() -> None:
    names = (
        "packaging-line-north-station-0017",
        "泵站-七号-压力传感器-泵站-七号",
        "evil\x1b[2J\x1b]0;owned\x07",
        "a\u202eb",
        "x" * 500,
    )
    view = view_of(a_site(*names, "b"))
    for width in (80, 120):
        lines = table(view, width)
        assert all(line.cell_len <= width for line in lines)
        assert all(line.plain.isprintable() for line in lines)
        columns = {line.plain.index(" ok ") for line in lines[2:] if "泵" not in line.plain}
        assert len(columns) == 1
    text = "\n".join(plain(view))
    assert "packaging-…tion-0017" in text
    assert "evil\\x1b[2" in text


def test_marks_that_would_grow_over_other_lines_are_left_out() -> None:
    assert safe("z\u0363a\u0301\u0489lgo \u0e17\u0e31") == "zálgo ท"


def test_a_wide_character_never_straddles_the_end() -> None:
    assert shortened("泵站泵站泵站", 6) == "泵 …站"
    assert cell_len(cropped("泵站泵站", 4)) == 4


@given(text=st.text(), width=st.integers(0, 40))
def test_fitted_text_is_safe_and_fits(text: str, width: int) -> None:
    told = safe(text)
    assert told.isprintable()
    assert cell_len(shortened(told, width)) <= width
    assert cell_len(cropped(told, width)) <= width


@given(st.floats(0, 9.99e8))
def test_a_number_is_short(value: float) -> None:
    assert len(short(value)) <= 7
    assert len(short(value)) <= 5 or value > 99_999


TEXTS = st.text(max_size=80)


@given(
    device=TEXTS,
    reasons=st.lists(TEXTS, max_size=3),
    message=TEXTS,
    celsius=st.floats(allow_nan=False) | st.none(),
    watts=st.floats(allow_nan=False, allow_infinity=False),
    width=st.integers(1, 250),
    height=st.integers(1, 80),
)
def test_whatever_is_said_the_screen_holds(
    device: str, reasons: list[str], message: str, celsius: float | None, watts: float, width: int, height: int
) -> None:
    site = Site("r", "hall1")
    device = device.replace("/", "_")
    say(site, device, "state", boards.state(reason=message))
    heat: dict[str, Any] = {} if celsius is None or math.isinf(celsius) else {"thermal__soc_c": celsius}
    trouble: dict[str, Any] = {
        "overall": "degraded",
        "reasons": reasons,
        "power__watts": watts,
        "governor__level": message,
    }
    say(site, device, "health", boards.health(**heat, **trouble))
    say(site, device, "alarm/x", boards.alarm(message))
    view = view_of(site, 1)
    for order in ORDERS:
        drawn = screen(replace(view, site=device, trouble=message), width, height, 3, order)
        assert len(drawn.lines) == height
        for line in drawn.lines:
            assert line.cell_len <= width
            assert line.plain.isprintable()
