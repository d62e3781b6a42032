from __future__ import annotations

import io
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.commands.command_desk import CommandDesk
from edge_agent.core.log_limit import _MAX_KINDS, AT_ONCE, THEN_EVERY_S, BoundedHandler
from tests.helpers.support import BASE, config, inbound


class Log:
    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        self.handler = BoundedHandler(self.stream, lambda: self.now)
        self.logger = logging.Logger("some.module")  # noqa: LOG001 - of one test alone
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_flood_is_a_bounded_number_of_lines_that_tell_how_much_was_left_out(log: Log) -> None:
    for number in range(10_000):
        log.logger.info("request refused id=%r", number)
    assert len(log.lines) == AT_ONCE
    assert log.lines[0] == "request refused id=0"
    assert log.lines[-1] == f"request refused id={AT_ONCE - 1} (from here on one of these is told in 10 s)"
    log.now += THEN_EVERY_S
    log.logger.info("request refused id=%r", "x")
    log.logger.info("request refused id=%r", "y")
    assert log.lines[AT_ONCE:] == [
        f"request refused id='x' ({10_000 - AT_ONCE} lines like this one were left out before it)"
    ]


def test_other_lines_are_told_meanwhile(log: Log) -> None:
    for number in range(AT_ONCE + 5):
        log.logger.info("request refused id=%r", number)
    log.logger.error("worker ended: %s", "killed by SIGKILL")
    assert log.lines[-1] == "worker ended: killed by SIGKILL"


def test_an_hour_of_flood_and_then_quiet(log: Log) -> None:
    for _ in range(3600):
        log.now += 1
        log.logger.info("request refused id=%r", 1)
    assert len(log.lines) <= AT_ONCE * 1.2 + 3600 / THEN_EVERY_S
    log.now += AT_ONCE * THEN_EVERY_S
    before = len(log.lines)
    for _ in range(AT_ONCE):
        log.logger.info("request refused id=%r", 1)
    assert len(log.lines) == before + AT_ONCE


def test_a_message_with_values_in_its_place_does_not_grow_the_memory(log: Log) -> None:
    for number in range(3 * _MAX_KINDS):
        log.logger.info(f"{number}")
    assert len(log.lines) == 3 * _MAX_KINDS
    assert len(log.handler._kinds) == _MAX_KINDS


def test_a_record_is_whole_for_other_handlers(log: Log) -> None:
    others: list[str] = []
    other = logging.Handler()
    other.emit = lambda record: others.append(record.getMessage())  # type: ignore[method-assign]
    log.logger.addHandler(other)
    for number in range(AT_ONCE + 1):
        log.logger.info("line %d", number)
    assert others == [f"line {number}" for number in range(AT_ONCE + 1)]


def test_what_was_left_out_last_is_told_at_the_end_once(log: Log) -> None:
    for number in range(AT_ONCE + 7):
        log.logger.warning("request refused id=%r", number)
    log.logger.info("other")
    written = len(log.lines)
    for _ in range(2):
        log.handler.close()
    assert log.lines[written:] == ["7 lines like this one were left out at last: request refused id=%r"]


def test_a_flood_of_one_command_hides_no_other(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.commands.command_desk.log", log.logger)
    deeds: Any = SimpleNamespace(ping=dict, resume=lambda: None)
    desk = CommandDesk(config('[commands]\nallow = ["ping", "resume"]'), lambda _: None, deeds)
    for _ in range(AT_ONCE + 10):
        desk.hear(inbound(f"{BASE}/cmd/ping"))
    desk.hear(inbound(f"{BASE}/cmd/resume", {}))
    assert len(log.lines) == AT_ONCE + 1
    assert log.lines[-1] == "command op=resume"
