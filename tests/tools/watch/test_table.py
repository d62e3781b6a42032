import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edge_agent.tools.watch.site import Site
from tests.tools.watch import boards
from tests.tools.watch.scenes import NOW, mixed_site, plain, play, row_of, say


def test_the_worst_boards_come_first_with_what_is_wrong() -> None:
    lines = plain(mixed_site(), 140)
    assert lines[0].startswith("hall1  6 boards  1 OFFLINE  1 STALE  1 CRITICAL  1 degraded  2 ok")
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == [
        *("oven-2", "lathe-01", "press-04", "press-05", "cabinet", "conveyor-01")
    ]
    text = " ".join(" ".join(lines).split())
    assert "!! overheating for 4 min: 84.4 °C, the limit is" in text
    assert "connection-lost: check its power and network" in text
    assert "last health 110 s ago" in text
    assert "last health 90 s ago, due every 10 s" in text


def test_boards_that_were_never_heard_do_not_hide_one_that_died() -> None:
    lines = plain(mixed_site([f"new-{number}" for number in range(47)]), 140)
    assert lines[0].startswith("hall1  53 boards  47 MISSING  1 OFFLINE")
    rows = [line.split()[:3] for line in lines[2:] if not line.startswith(" ")]
    assert rows[:2] == [["47", "boards", "MISSING"], ["oven-2", "OFFLINE", "–"]]
    assert "new-0, new-1, new-10, new-11" in " ".join(" ".join(lines).split())


def test_machines_that_lack_values_are_named_with_them() -> None:
    def words(lacking: Any, **more: int) -> str:
        site = Site("r", "hall1")
        signals = {"pump": {"lacking": lacking, **more}, "x": 7}
        play(site, "b", overall="degraded", reasons=["signals-stale"], signals=signals)
        return " ".join(" ".join(plain(site, 200)).split())

    assert "signals-stale: look at the sensors" in words({})
    assert "signals-stale: look at the sensors" in words(["p"])
    assert "signals-stale: pump.9 lacks temp, vib: look at the sensors" in words({"pump.9": ["temp", "vib"]})
    assert "p2 lacks v; and 2 more: look" in words({f"p{number}": ["v"] for number in range(5)})
    assert "p lacks v; births were missed: look" in words({"p": ["v"]}, births_missed_total=3)


def test_a_promise_whose_audits_are_open_is_named_with_the_time_of_its_last_answer() -> None:
    site = Site("r", "hall1")
    until = "2026-12-01T01:40:00.000Z"
    tasks = {"t": {"promised": 0.9, "open": 224, "until": until}, "u": {"promised": None, "open": 3}, "x": 5}
    tasks["z" * 9000] = {"promised": 0.9, "open": 1}
    play(site, "b", overall="degraded", reasons=["audits-open"], accuracy=tasks)
    text = " ".join(" ".join(plain(site, 200)).split())
    assert f"audits-open: t: 224 open, answered until {until}; zzz" in text
    assert "zzz: 1 open, answered until never: answer its audits" in text
    assert len(text) < 1000


def test_the_bundle_that_does_not_open_is_named_with_its_fault() -> None:
    site = Site("r", "hall1")
    play(site, "b", overall="degraded", reasons=["model-fallback"])
    say(site, "b", "info", json.dumps({"models": [{"warning": "runs because pump-2/model.gguf is missing"}]}).encode())
    text = " ".join(" ".join(plain(site, 200)).split())
    assert "model-fallback: runs because pump-2/model.gguf is missing: copy the bundle" in text


def test_a_board_without_a_model_shows_its_alarm_once_with_what_to_do_and_nothing_about_its_power() -> None:
    site = Site("r", "hall1")
    play(site, "b", at=NOW - 5, overall="critical", reasons=["model-load-failed"])
    site.rows(NOW)
    say(site, "b", "state", boards.state("offline", reason="model-load-failed: no such file"))
    say(site, "b", "alarm/model-load-failed", boards.alarm("copy the bundle there again", severity="critical"))
    text = " ".join(" ".join(plain(site, 140)).split())
    assert text.count("model-load-failed") == 1
    assert "!! model-load-failed for 9 min: copy the bundle there again" in text
    assert "OFFLINE for 0 s: last health" in text
    assert "power" not in text


def test_a_stale_board_says_so_first_and_its_alarms_as_past_ones() -> None:
    site = Site("r", "hall1")
    play(site, "b", at=200.0)
    say(site, "b", "state", boards.state(), at=200.0)
    say(site, "b", "alarm/queue-overload", boards.alarm("send fewer requests"), at=200.0)
    text = " ".join(" ".join(plain(site, 140)).split())
    assert "STALE" in text
    assert text.index("check its power") < text.index("its last alarms: queue-overload")
    assert "send fewer requests" not in text


def test_nothing_moves_while_ages_and_figures_change() -> None:
    def column_of_wrong(**changes: Any) -> int:
        site = Site("r", "hall1")
        play(site, "b", **changes)
        return plain(site)[1].index("WHAT")

    quiet = column_of_wrong(queue__depth=2, inference__decode_tok_s=3.2)
    assert column_of_wrong(queue__depth=57, inference__decode_tok_s=643, at=200.0) == quiet


def test_a_board_of_a_compact_view_takes_one_line() -> None:
    lines = plain(mixed_site(), is_compact=True)
    assert [line.split()[0] for line in lines[2:]] == [
        *("oven-2", "lathe-01", "press-04", "press-05", "cabinet", "conveyor-01")
    ]
    assert lines[2].endswith("…")


def test_boards_below_the_screen_are_counted_and_not_drawn() -> None:
    head, _, *rows = plain(mixed_site(), is_compact=True, max_rows=2)
    assert "6 boards" in head
    assert [row.split()[0] for row in rows] == ["oven-2", "lathe-01"]


def test_unknown_is_a_dash_and_zero_is_zero() -> None:
    site = Site("r", "hall1")
    say(site, "cabinet", "state", boards.state())
    say(site, "cabinet", "health", boards.nothing_known())
    zero: dict[str, Any] = {"queue__depth": 0, "inference__decode_tok_s": 0, "power__watts": 0, "thermal__soc_c": 0}
    play(site, "idle", **zero)
    lines = plain(site, 100)
    assert row_of(lines, "cabinet")[1:7] == ["ok", "–", "2/64", "–", "840", "–"]
    assert row_of(lines, "idle")[1:7] == ["ok", "0°", "0/64", "0.0", "840", "0.0"]


def test_watts_of_less_than_the_board_name_what_was_measured() -> None:
    site = Site("r", "hall1")
    play(site, "b", power__watts=3.14, power__scope="soc")
    assert "3.1 soc" in plain(site, 100)[2]


def test_wider_terminals_show_more_columns() -> None:
    heads = [plain(mixed_site(), width)[1].split() for width in (80, 120, 200)]
    assert len(heads[0]) < len(heads[1]) < len(heads[2])
    assert "MODEL" in heads[2]


def test_the_bundle_that_a_silent_board_had_last_is_in_brackets() -> None:
    lines = plain(mixed_site(), 140)
    shown = {
        name: "(qwen2.5-0.5b IQ4_NL)" in " ".join(row_of(lines, name)) for name in ("oven-2", "lathe-01", "press-04")
    }
    assert shown == {"oven-2": True, "lathe-01": True, "press-04": False}


def test_trouble_stands_above_the_table() -> None:
    trouble = "no connection to the broker broker:1883 for 12 s: timed out"
    lines = plain(mixed_site(), trouble=trouble)
    assert lines[1] == trouble


TEXTS = st.text(max_size=80)


@given(device=TEXTS, reasons=st.lists(TEXTS, max_size=3), message=TEXTS, width=st.integers(60, 200))
def test_text_from_the_bus_neither_moves_the_cursor_nor_breaks_the_table(
    device: str, reasons: list[str], message: str, width: int
) -> None:
    site = Site("r", "hall1")
    device = device.replace("/", "_") or "b"
    trouble: dict[str, Any] = {"overall": "degraded", "reasons": reasons, "governor__level": message}
    play(site, device, **trouble)
    say(site, device, "alarm/x", boards.alarm(f"[red]{message}", session=device))
    for line in plain(site, width, trouble=message or "x"):
        assert cell_len(line) <= width
        assert line.isprintable()


@pytest.mark.parametrize("device", ["evil\x1b[2J\x07", "a\u202eb", "x" * 500, "泵站-七号-压力传感器"])
def test_names_may_be_long_wide_or_malicious(device: str) -> None:
    site = Site("r", "hall1")
    play(site, device)
    lines = plain(site)
    assert all(cell_len(line) <= 80 and line.isprintable() for line in lines)
