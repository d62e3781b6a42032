"""Drawings: round numbers on their axes, labels that can be read, cells where they belong."""

import itertools
import math
import random
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.report.labels import Box, leader_end, place_labels, text_width
from convert.report.style import HEAT_LEVELS, STYLE
from convert.report.svg import About, Bar, Cell, Point, bars, grid, scatter
from convert.report.ticks import level, log_ticks, round_ticks

ABOUT = About(name="plot", title="a plot", description="of points")


def is_round(value: float) -> bool:
    return f"{value:.6e}"[:8].rstrip("0").rstrip(".") in {"1", "2", "5"}


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_round_ticks_are_multiples_of_a_round_step_within_range(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = round_ticks(low, high, most)
    assert len(ticks) <= most
    assert all(low <= tick <= high for tick in ticks)
    if len(ticks) > 1 and span > 1e-6 * abs(low):
        steps = {float(f"{b - a:.3g}") for a, b in itertools.pairwise(ticks)}
        assert len(steps) == 1
        assert is_round(steps.pop())


def test_round_ticks_read_as_people_write_them() -> None:
    assert round_ticks(0, 1, 6) == (0, 0.2, 0.4, 0.6, 0.8, 1)
    assert round_ticks(342.1, 541.9, 5) == (350, 400, 450, 500)
    assert round_ticks(0, 0.31, 4) == (0, 0.1, 0.2, 0.3)
    assert round_ticks(7, 7, 4) == (7,)
    assert all(
        879609.9999999999 <= tick <= 879610.0000009999 for tick in round_ticks(879609.9999999999, 879610.0000009999, 6)
    )


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e12), st.integers(3, 12))
def test_log_ticks_are_round_within_range_and_not_too_many(low: float, factor: float, most: int) -> None:
    ticks = log_ticks(low, low * factor, most)
    assert len(ticks) <= most
    assert list(ticks) == sorted(set(ticks))
    assert all(low <= tick <= low * factor for tick in ticks)
    if factor > 20:
        assert all(is_round(tick) for tick in ticks)


def test_log_ticks_are_1_2_5_or_powers_of_ten() -> None:
    assert log_ticks(0.0006, 0.13, 9) == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    assert log_ticks(0.0006, 0.13, 4) == (0.001, 0.01, 0.1)
    assert level(0.01, (0.001, 0.01, 0.1)) == 2
    assert level(0.0001, (0.001, 0.01, 0.1)) == 0


def test_labels_touch_no_other_label_no_mark_and_no_edge() -> None:
    chance = random.Random(3)
    area = Box(58, 30, 328, 290)
    for count in (1, 7, 15, 60):
        marks = [(chance.uniform(64, 322), chance.uniform(36, 284)) for _ in range(count)]
        found = place_labels([f"Q{n}_K_M" for n in range(count)], marks, area, first=[n == 3 for n in range(count)])
        boxes = [box for box in found if box is not None]
        assert len(boxes) == count or count == 60
        assert all(area.holds(box) for box in boxes)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert not any(box.left < x < box.right and box.top < y < box.bottom for box in boxes for x, y in marks)
        for (x, y), own in zip(marks, found, strict=True):
            if own is None or (end := leader_end(x, y, own)) is None:
                continue
            line = [(x + share / 99 * (end[0] - x), y + share / 99 * (end[1] - y)) for share in range(99)]
            crossed = [
                box for box in boxes if any(box.left < a < box.right and box.top < b < box.bottom for a, b in line)
            ]
            assert crossed in ([], [own])


def test_a_note_beside_a_cell_is_as_small_as_its_room_asks_for() -> None:
    apart = {"output": Cell(2, "Q5_0", "1,093.6 MB, 2.74 × 10⁻⁵ nats (scaled)")}
    for width, most in ((1040, 12.0), (340, 10.0)):
        drawn = ET.fromstring(grid({}, apart, rows=(), column_name="layer", about=ABOUT, width=width))
        (note,) = [group for group in drawn.iter("g") if group.attrib.get("class") == "note"]
        assert float(note.attrib["font-size"]) <= most
        (text,) = note.iter("text")
        assert float(text.attrib["x"]) + text_width(text.text or "", float(note.attrib["font-size"])) <= width + 2


def test_a_lower_divergence_is_drawn_lower_and_ours_in_another_shape() -> None:
    points = [Point("Q8_0", 531, 0.001, is_own=False), Point("ours", 360, 0.02, is_own=True)]
    drawn = ET.fromstring(scatter(points, about=ABOUT, width=1040, x_name="MB", y_name="nats"))
    circle, path = drawn.findall(".//circle"), drawn.findall(".//path")
    assert (len(circle), len(path)) == (1, 1)
    top = float(re.match(r"M[\d.]+ ([\d.]+)", path[0].attrib["d"])[1])  # type: ignore[index]
    assert float(circle[0].attrib["cy"]) > top
    assert [text.text for text in drawn.iter("text") if text.attrib["class"] == "label own"] == ["ours"]


@pytest.mark.parametrize("points", [1, 2])
def test_equal_points_can_be_drawn(points: int) -> None:
    same = [Point("a", 0.0, 0.02, is_own=False)] * points
    assert "NaN" not in scatter(same, about=ABOUT, width=340, x_name="MB", y_name="nats").replace("nan", "NaN")


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Bar("a", 10, "10"), Bar("b", 40, "40"), Bar("c", 0, "0")]
    for width in (340, 1040):
        drawn = ET.fromstring(bars(rows, about=ABOUT, width=width, x_name="tokens/s"))
        ten, forty, _ = (float(rect.attrib["width"]) for rect in drawn.iter("rect"))
        assert forty == pytest.approx(4 * ten, abs=0.3)
        assert forty < width


@pytest.mark.parametrize(
    ("layers", "width", "stripes"), [(24, 1040, 1), (48, 1040, 2), (36, 1040, 2), (28, 340, 5), (1, 340, 1)]
)
def test_a_grid_has_every_cell_once_within_its_width(layers: int, width: float, stripes: int) -> None:
    rows = ("attn_q", "ffn_down")
    cells = {(row, layer): Cell(1, "IQ4_NL", f"{row} {layer}") for row in rows for layer in range(layers)}
    apart = {"token_embd": Cell(None, "Q8_0", "not measured")}
    drawn = ET.fromstring(grid(cells, apart, rows=rows, column_name="layer", about=ABOUT, width=width))
    notes = [title.text for group in drawn.iter("g") for title in group.iter("title")]
    assert sorted(notes, key=str) == sorted([cell.note for cell in cells.values()] + ["not measured"])
    rects = list(drawn.iter("rect"))
    assert all(float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width for rect in rects)
    assert [text.text for text in drawn.iter("text")].count("layer") == stripes
    assert len({(rect.attrib["x"], rect.attrib["y"]) for rect in rects}) == len(rects)


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_ink_stands_out_from_its_ground() -> None:
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in STYLE.split("@media", 2)[:2])
    assert light.keys() == dark.keys()
    pairs = [(ink, ground) for ink in ("ink", "quiet", "own", "other") for ground in ("ground", "raised")]
    pairs += [(f"heat-ink-{level}", f"heat-{level}") for level in range(HEAT_LEVELS)]
    for scheme in (light, dark):
        for ink, ground in pairs:
            low, high = sorted(luminance(scheme[name]) for name in (ink, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground, math.log(high))
