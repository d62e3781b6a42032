"""The progress of a conversion, on a terminal and in a log."""

import io

import pytest

from convert.progress import REPORT_S, ProgressLine, part_of


class Terminal(io.StringIO):
    """Collects what is drawn."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("convert.progress.time.monotonic", clock)
    return clock


def last_line(stream: Terminal) -> str:
    return stream.getvalue().rpartition("\x1b[K")[2]


def test_a_stage_shows_its_share_its_time_and_the_rest(clock: Clock) -> None:
    stream = Terminal()
    line = ProgressLine(stream)
    line.show("calibrating", 0.0)
    assert last_line(stream) == "  0 %  calibrating"
    clock.now += 90
    line.show("calibrating", 0.25)
    assert last_line(stream) == " 25 %  calibrating, 1:30 min, about 4:30 min left"


def test_a_smaller_share_begins_a_stage_with_a_time_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    line = ProgressLine(stream)
    line.show("rounding", 1.0)
    clock.now += 600
    line.show("writing", 0.0)
    clock.now += 20
    line.show("writing", 0.5)
    assert last_line(stream) == " 50 %  writing, 0:20 min, about 0:20 min left"


def test_a_log_gets_a_line_every_half_a_minute_and_nothing_of_a_short_run(clock: Clock) -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for second in range(0, 61, 10):
        line.show("calibrating", second / 100)
        clock.now += 10
    line.close()
    assert REPORT_S == 30
    assert stream.getvalue().splitlines() == [
        " 30 %  calibrating, 0:30 min, about 1:10 min left",
        " 60 %  calibrating, 1:00 min, about 0:40 min left",
    ]


def test_a_part_reports_its_share_of_the_whole() -> None:
    found: list[tuple[str, float]] = []
    part_of(lambda what, share: found.append((what, share)), 0.5, 1.0)("writing", 0.5)
    assert found == [("writing", 0.75)]
