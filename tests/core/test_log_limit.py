from __future__ import annotations

import io
import logging

import pytest

from edge_agent.core.log_limit import BURST, MAX_KINDS, THEN_EVERY_S, BoundedHandler


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


def test_a_flood_is_a_bounded_number_of_lines_and_says_how_many_were_left_out(log: Log) -> None:
    for number in range(10_000):
        log.logger.info("request refused id=%r", number)
    assert log.lines == [f"request refused id={number}" for number in range(BURST)]
    log.now += THEN_EVERY_S
    log.logger.info("request refused id=%r", "x")
    log.logger.info("request refused id=%r", "y")
    assert log.lines[BURST:] == [f"request refused id='x' ({10_000 - BURST} similar lines were left out)"]


def test_other_lines_are_written_meanwhile(log: Log) -> None:
    for number in range(BURST + 5):
        log.logger.info("request refused id=%r", number)
    log.logger.error("worker ended: %s", "killed by SIGKILL")
    assert log.lines[-1] == "worker ended: killed by SIGKILL"


def test_after_a_quiet_time_a_burst_is_written_again(log: Log) -> None:
    for _ in range(3600):
        log.now += 1
        log.logger.info("request refused id=%r", 1)
    assert len(log.lines) <= BURST * 1.2 + 3600 / THEN_EVERY_S
    log.now += BURST * THEN_EVERY_S
    before = len(log.lines)
    for _ in range(BURST):
        log.logger.info("request refused id=%r", 1)
    assert len(log.lines) == before + BURST


def test_messages_that_contain_values_do_not_grow_the_memory(log: Log) -> None:
    for number in range(3 * MAX_KINDS):
        log.logger.info(f"{number}")
    assert len(log.lines) == 3 * MAX_KINDS
    assert len(log.handler._buckets) == MAX_KINDS


def test_other_handlers_get_the_record_unchanged(log: Log) -> None:
    others: list[str] = []
    other = logging.Handler()
    other.emit = lambda record: others.append(record.getMessage())  # type: ignore[method-assign]
    log.logger.addHandler(other)
    for number in range(BURST + 1):
        log.logger.info("line %d", number)
    assert others == [f"line {number}" for number in range(BURST + 1)]


def test_a_flood_of_one_command_hides_no_other(log: Log) -> None:
    """As commands.commands logs them: the operation is part of the text, and so of the kind of line."""
    for operation in ["ping"] * (BURST + 10) + ["resume"]:
        log.logger.info(f"command op={operation}")
    assert len(log.lines) == BURST + 1
    assert log.lines[-1] == "command op=resume"
