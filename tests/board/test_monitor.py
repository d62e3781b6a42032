import errno
import os
import queue
import threading
import time
from pathlib import Path

import pytest

from edge_agent.board import monitor as monitor_module
from edge_agent.board.board import Board
from edge_agent.board.monitor import STALE_AFTER_S, Monitor, read_with_rates
from edge_agent.board.reading import BoardReading
from tests.helpers.boards.trees import load, passes
from tests.helpers.processes import wait_until

WAIT_S = 10.0
ZONE = "sys/class/thermal/thermal_zone2"  # bigcore2-thermal, the hottest
HANGING = "bigcore2-thermal (thermal_zone2)"


def count_threads() -> int:
    return sum(thread.name == "board-monitor" for thread in threading.enumerate())


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def answer(fifo: Path, content: bytes) -> None:
    """Lets a read that hangs return."""
    file = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    os.write(file, content)
    os.close(file)


@pytest.mark.expects_warning
def test_a_sensor_that_hangs_costs_only_its_own_reading_and_is_read_again_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "HANGS_AFTER_S", 0.3)
    load("rk3588-mainline").write(tmp_path)
    stuck = tmp_path / ZONE / "temp"
    replace_by_fifo(stuck)
    wait_until(lambda: count_threads() == 0, "no thread of another test", WAIT_S)
    monitor = Monitor(Board(tmp_path, tmp_path), lambda _: None, interval_s=0.01)

    def has(errors: dict[str, str]) -> bool:
        monitor.replace_hung_thread(time.monotonic())
        return monitor.latest(time.monotonic()).errors == errors

    monitor.start()
    wait_until(lambda: has({HANGING: "hangs for more than 0.3 s"}), "the sensor is named", WAIT_S)
    reading = monitor.latest(time.monotonic())
    assert reading.has_faults
    assert "bigcore2-thermal" not in reading.thermal.zones
    assert (reading.thermal.soc_c, reading.power.watts) == (78.538, 11.875)
    assert count_threads() == 2

    hidden = stuck.with_name("hidden")
    stuck.rename(hidden)
    stuck.write_text("81000\n")
    answer(hidden, b"99000\n")
    wait_until(lambda: has({}), "the sensor is read again", WAIT_S)
    assert monitor.latest(time.monotonic()).thermal.soc_c == 81.0
    wait_until(lambda: count_threads() == 1, "one thread is left", WAIT_S)
    monitor.stop()


@pytest.mark.parametrize(
    ("number", "is_fault"),
    [(errno.EAGAIN, False), (errno.ENODATA, False), (errno.EACCES, False), (errno.EINVAL, True), (errno.EIO, True)],
)
def test_a_sensor_that_is_off_is_reported_and_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, is_fault: bool
) -> None:
    tree, read = load("pi4"), passes(tmp_path)
    tree.write(tmp_path)
    tree.inject(monkeypatch, tmp_path)
    assert not read().errors
    tree.faults["sys/class/thermal/thermal_zone0/temp"] = number
    reading = read()
    assert reading.errors == {"cpu-thermal (thermal_zone0)": os.strerror(number)}
    assert reading.has_faults is is_fault
    tree.faults.clear()
    assert not read().errors


def test_an_old_reading_is_an_error(tmp_path: Path) -> None:
    one = Monitor(Board(tmp_path, tmp_path), lambda _: None)
    assert one.latest(5.0) == BoardReading()
    reading = BoardReading(disk_free_mb=1.0)
    one._latest, one.advanced_at = reading, 100.0
    assert one.latest(100.0 + STALE_AFTER_S) is reading
    assert one.latest(101.0 + STALE_AFTER_S).errors == {"board": "not read for more than 10 s"}


@pytest.mark.expects_warning
def test_a_reading_that_cannot_be_delivered_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load("pi4").write(tmp_path)
    readings: queue.Queue[BoardReading] = queue.Queue()

    def deliver(reading: BoardReading) -> None:
        readings.put(reading)
        if readings.qsize() == 1:
            raise RuntimeError("the inbox is broken")

    one = Monitor(Board(tmp_path, tmp_path), deliver, interval_s=0.01)
    one.start()
    wait_until(lambda: readings.qsize() > 2, "it goes on", WAIT_S)
    one.stop()
    assert "the board could not be read" in caplog.text


def test_reading_once_gives_rates_too() -> None:
    assert read_with_rates(Board(Path("/"), Path("/"))).cpu.percent is not None


def test_reading_once_ends_when_a_sensor_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("pi4").write(tmp_path)
    replace_by_fifo(tmp_path / "proc/loadavg")
    monkeypatch.setattr(monitor_module, "_READ_TIMEOUT_S", 0.3)
    assert read_with_rates(Board(tmp_path, tmp_path)).errors == {"board": "a sensor hangs for more than 0.3 s"}
    answer(tmp_path / "proc/loadavg", b"")
