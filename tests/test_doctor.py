from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_agent.board import monitor as monitor_module
from edge_agent.board.board import Board
from edge_agent.board.monitor import read_once
from edge_agent.board.reading import BoardReading
from edge_agent.config import MqttConfig
from edge_agent.config_loader import load_config
from edge_agent.doctor import broker as broker_module
from edge_agent.doctor import doctor
from edge_agent.doctor.broker import broker
from edge_agent.doctor.check import Check, Verdict, counted
from edge_agent.doctor.engine import kernels, memory
from edge_agent.doctor.sensors import memory_limit, sensors
from edge_agent.mqtt_link import Broken, Connected, Disconnected, LinkEvent
from tests.boards.trees import NAMES, Tree, load
from tests.test_board_monitor import answer, threads, wait_until
from tests.test_mqtt_link import hangs_up


@pytest.mark.parametrize(
    ("available_mb", "worker_mb", "verdict", "found"),
    [
        (None, 900.0, Verdict.SKIPPED, "/proc/meminfo does not say"),
        (5000.0, None, Verdict.SKIPPED, "5000 MB available"),
        (5000.0, 900.0, Verdict.GOOD, "worker 900 MB with the mapped pages of the weights"),
        (850.0, 900.0, Verdict.WARNING, "850 MB available before loading"),
    ],
)
def test_memory_is_judged_by_what_the_model_took(
    available_mb: float | None, worker_mb: float | None, verdict: Verdict, found: str
) -> None:
    check = memory(available_mb, worker_mb)
    assert check.verdict is verdict
    assert found in check.found
    assert (check.advice is None) == (verdict is not Verdict.WARNING)


def judged(monkeypatch: pytest.MonkeyPatch, broken: Broken | None, reason: str = "why", **fields: Any) -> Check:
    """What doctor says of a broker whose connection breaks so, at a port where somebody listens; None = it stands."""

    class Link:
        def __init__(self, _client_id: str, _mqtt: MqttConfig, deliver: Any) -> None:
            self.deliver = deliver

        def start(self) -> None:
            link: Any = self
            event: LinkEvent = Connected(link=link)
            if broken is not None:
                event = Disconnected(link=link, broken=broken, reason=reason)
            self.deliver(event)

        def stop(self, _timeout_s: float) -> None:
            pass

    monkeypatch.setattr(broker_module, "MqttLink", Link)
    with hangs_up() as port:
        return broker(MqttConfig.model_validate({"host": "127.0.0.1", "port": port, **fields}), "doctor")


@pytest.mark.parametrize(
    ("broken", "tls", "found", "advice"),
    [
        (None, {}, ", MQTT 5, with TLS", ""),
        (Broken.REFUSED, None, " refuses the connection: why", "mqtt.username"),
        (Broken.NOT_REACHED, {}, " can be reached, but not with TLS: why", "mqtt.port is the broker's TLS listener"),
        (Broken.NOT_REACHED, None, " cannot be reached: why", "check the broker"),
        (Broken.NOT_ANSWERED, None, " does not answer a CONNECT of MQTT 5 without TLS", "wants TLS"),
        (Broken.NOT_ANSWERED, {}, " does not answer a CONNECT of MQTT 5 with TLS", "mqtt.tls.cert_file"),
    ],
)
def test_what_keeps_the_broker_away_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, broken: Broken | None, tls: dict[str, str] | None, found: str, advice: str
) -> None:
    check = judged(monkeypatch, broken, tls=tls)
    assert check.verdict is (Verdict.GOOD if broken is None else Verdict.FAILED)
    assert check.found.startswith("127.0.0.1:")
    assert check.found.endswith(found)
    assert advice in (check.advice or "")


def test_files_that_the_connection_lacks_are_named(tmp_path: Path) -> None:
    check = broker(MqttConfig(password_file=tmp_path / "none"), "doctor")
    assert check.verdict is Verdict.FAILED
    assert check.found.startswith("mqtt.password_file: should be a file that can be read")


def test_a_configuration_that_is_not_there_is_to_be_named(tmp_path: Path) -> None:
    (check,) = doctor.checks(tmp_path / "none.toml")
    assert check.advice == "name the configuration with --config FILE"


def test_one_thread_is_no_threads() -> None:
    assert [counted(count, "thread") for count in (1, 2)] == ["1 thread", "2 threads"]


def written(folder: Path, more: str = "") -> Path:
    """A configuration without broker and model."""
    path = folder / "config.toml"
    text = '[device]\nsite = "hall1"\nid = "board1"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n'
    path.write_text(f'{text}[models.default]\npath = "none"\n{more}', encoding="utf-8")
    return path


def read(tree: Tree, root: Path) -> BoardReading:
    tree.write(root)
    with pytest.MonkeyPatch.context() as patch:
        tree.inject(patch, root)
        return read_once(Board(root, root))


FOUND = {
    "pi4": "SoC 47.2 °C with a limit of 80 °C; throttling told by firmware, supply alarm; "
    "power not measured; no fan speed",
    "pi5": "SoC 61.1 °C with a limit of 80 °C; throttling told by firmware, supply alarm; power not measured; "
    "fan 4012 rpm",
    "rk3588-mainline": "SoC 80.4 °C with a limit of 85 °C; throttling told by cooling devices; "
    "11.9 W of the board by ina226; no fan speed",
    "orin-nano": "SoC 63.8 °C with a limit of 95 °C; throttling told by cooling devices, over-current counters; "
    "9.2 W of the module by ina3221 VDD_IN; fan 2140 rpm; off: cv0-thermal (thermal_zone2) (Resource temporarily "
    "unavailable), cv1-thermal (thermal_zone3) (Resource temporarily unavailable), cv2-thermal (thermal_zone4) "
    "(Resource temporarily unavailable)",
    "container": "no temperature; throttling told by nobody; power not measured; no fan speed",
}


@pytest.mark.parametrize("name", FOUND)
def test_what_a_board_tells_of_itself_is_named_with_its_sources(name: str, tmp_path: Path) -> None:
    check = sensors(read(load(name), tmp_path))
    assert check.found == FOUND[name]
    assert check.verdict is (Verdict.SKIPPED if name == "container" else Verdict.GOOD)
    assert check.advice is None


@pytest.mark.parametrize("name", NAMES)
def test_a_memory_limit_takes_the_kernels_controller(name: str, tmp_path: Path) -> None:
    check = memory_limit(read(load(name), tmp_path))
    wanted = Verdict.WARNING if name.startswith("pi") else Verdict.SKIPPED if name == "container" else Verdict.GOOD
    assert check.verdict is wanted
    assert ("cgroup_enable=memory" in (check.advice or "")) == (wanted is Verdict.WARNING)


def test_a_supply_that_was_too_weak_is_worth_a_word(tmp_path: Path) -> None:
    check = sensors(read(load("pi5-undervoltage"), tmp_path))
    assert check.verdict is Verdict.WARNING
    assert "stronger supply" in (check.advice or "")


@pytest.mark.parametrize(
    ("board", "file", "number", "failed", "advice"),
    [
        ("pi4", "get_throttled", errno.EACCES, "get_throttled (Permission denied)", "group video"),
        (
            "x86-laptop",
            "sys/class/powercap/intel-rapl:0/energy_uj",
            errno.EACCES,
            "package-0 (intel-rapl:0) (Permission denied)",
            "energy_uj",
        ),
        (
            "pi4",
            "sys/class/thermal/thermal_zone0/temp",
            errno.EIO,
            "cpu-thermal (thermal_zone0) (Input/output error)",
            "dmesg",
        ),
    ],
)
def test_sensors_that_fail_are_told_with_what_to_do(
    tmp_path: Path, board: str, file: str, number: int, failed: str, advice: str
) -> None:
    tree = load(board)
    tree.faults[file] = number
    check = sensors(read(tree, tmp_path))
    assert check.verdict is Verdict.WARNING
    assert f"failed: {failed}" in check.found
    assert advice in (check.advice or "")


@pytest.mark.expects_warning
def test_a_sensor_that_hangs_holds_neither_doctor_nor_the_other_readings_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor_module, "HANGS_AFTER_S", 0.3)
    root = tmp_path / "board"
    load("pi5").write(root)
    hanging = root / "sys/class/thermal/thermal_zone0/temp"
    hanging.unlink()
    os.mkfifo(hanging)
    assert doctor.doctor(written(tmp_path, f'[board]\nroot = "{root}"\n'), as_json=True) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    told = checks["sensors"]
    assert told["verdict"] == "warning"
    assert told["found"] == (
        "no temperature; throttling told by firmware, supply alarm; power not measured; fan 4012 rpm; "
        "failed: cpu-thermal (thermal_zone0) (hangs for more than 0.3 s)"
    )
    assert told["advice"] == (
        "cpu-thermal (thermal_zone0): the kernel's log (dmesg) may tell why; the agent goes on without"
    )
    assert "MB free" in checks["disk"]["found"]
    answer(hanging, b"")
    wait_until(lambda: not threads())


def test_a_disk_that_does_not_answer_is_told(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    check = doctor._disk(config, BoardReading(errors={"disk": "hangs for more than 2 s"}))
    assert check.verdict is Verdict.WARNING
    assert check.found.endswith(": hangs for more than 2 s")


@pytest.mark.parametrize(
    ("cpu_variant", "unused"),
    [
        ("armv8.2_2 NEON ARM_FMA FP16_VA DOTPROD REPACK", ""),
        ("NEON ARM_FMA DOTPROD", ""),
        ("armv8.0_1 NEON ARM_FMA REPACK", "asimddp"),
        ("no_DOTPROD NEON", "asimddp"),
    ],
)
def test_kernels_that_leave_a_feature_of_the_cores_unused_are_named_with_it(cpu_variant: str, unused: str) -> None:
    check = kernels(["asimd", "asimddp"], cpu_variant)

    assert check.verdict is (Verdict.FAILED if unused else Verdict.GOOD)
    assert cpu_variant in check.found
    assert unused in check.found
    assert not unused or "all kernel variants" in str(check.advice)
