import io
import logging

import pytest

from edge_agent.core.log_limit import MAX_KINDS, MAX_LINES, PERIOD_S, BoundedHandler


class Log:
    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        self.handler = BoundedHandler(self.stream, lambda: self.now)
        self.logger = logging.Logger("some.module")  # noqa: LOG001 - for one test alone
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_flood_is_a_bounded_number_of_lines_that_say_when_it_stops_and_how_many_were_left_out(log: Log) -> None:
    log.now = 100.0
    for number in range(10_000):
        log.logger.info("request refused id=%r", number)
    assert log.lines[:-1] == [f"request refused id={number}" for number in range(MAX_LINES - 1)]
    last = f"request refused id={MAX_LINES - 1} (further similar lines are left out for {PERIOD_S - 100:.0f} s)"
    assert log.lines[-1] == last
    log.logger.error("worker ended: %s", "killed by SIGKILL")
    assert log.lines[MAX_LINES:] == ["worker ended: killed by SIGKILL"]
    log.now += PERIOD_S
    log.logger.info("request refused id=%r", "x")
    log.logger.info("request refused id=%r", "y")
    left_out = f"({10_000 - MAX_LINES} similar lines were left out)"
    assert log.lines[MAX_LINES + 1 :] == [f"request refused id='x' {left_out}", "request refused id='y'"]


def test_messages_that_contain_values_do_not_grow_the_memory(log: Log) -> None:
    for number in range(3 * MAX_KINDS):
        log.logger.info(f"{number}")
    assert len(log.lines) == 3 * MAX_KINDS
    assert len(log.handler._lines) <= MAX_KINDS
