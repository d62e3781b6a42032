"""One emulated arm64 board with its own kernel, from nothing to an answer and back: `python -m rigs.deploy arm64`.

It also shows what only a whole machine can show. The tests go on from each other.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rigs.deploy.emulator import EmulatedBoard
from rigs.deploy.fleet import REPOSITORY, Broker, Fleet
from rigs.deploy.provisioning import ENCRYPT, FIRST, PASSWORDS, documented, playbook
from tests.helpers.bundles import asked_bundle
from tests.helpers.processes import wait_until
from tests.test_systemd_unit import MAX_EXPOSURE

WHEELHOUSE = REPOSITORY / "dist" / "wheelhouse" / "aarch64"
ANSWER_S = 600.0
MORE_BYTES = 50_000_000


@dataclass
class World:
    fleet: Fleet
    board: EmulatedBoard
    broker: Broker
    folder: Path

    def ask(self) -> dict[str, Any]:
        """One reading, from this machine; {} = no answer came."""
        question = json.dumps({"input": {"vibration_mm_s": 7.9}, "deadline_ms": 100_000})
        topic = f"edgeai/v1/hall1/{FIRST}/infer/pump-triage/request"
        return self._heard("mosquitto_rr", "-t", topic, "-e", "edgeai/v1/reply/operator", "-m", question)

    def retained(self, topic: str) -> dict[str, Any]:
        return self._heard("mosquitto_sub", "-C", "1", "-t", f"edgeai/v1/hall1/{FIRST}/{topic}")

    def _heard(self, program: str, *words: str) -> dict[str, Any]:
        server = ["-h", "localhost", "-p", str(self.broker.port), "--cafile", str(self.folder / "broker" / "ca.pem")]
        who = ["-u", "operator", "-P", PASSWORDS["operator"]]
        done = subprocess.run(
            [program, *server, *who, "-V", "5", "-W", "120", *words], capture_output=True, text=True, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout or "{}")
        return told

    def shown(self, name: str) -> str:
        """A property of the service."""
        return self.board.run("systemctl", "show", "--value", "--property", name, "edge-agent").stdout.strip()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("arm64")
    bundle = asked_bundle(folder)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(folder / "broker", PASSWORDS))
        boards: list[EmulatedBoard] = []
        fleet = Fleet(folder, boards, broker, architecture="aarch64", broker_host="broker.example")
        boards.append(stack.enter_context(EmulatedBoard(folder, FIRST, fleet.key)))
        fleet.prepare(bundle, WHEELHOUSE, documented("cp -r example plant"), ENCRYPT)
        yield World(fleet, boards[0], broker, folder)


def test_board_answers_after_one_command(world: World) -> None:
    played = world.fleet.play(playbook("provision"))
    assert played.boards == {FIRST: "changed"}, played.text
    reply = world.ask()
    assert reply["status"] == "ok", reply
    worker = world.retained("health")["worker"]
    assert worker["cpu_variant"].startswith("armv8.2_2 "), worker
    assert worker["repacked_mb"] > 0


def test_again_nothing_changes(world: World) -> None:
    played = world.fleet.play(playbook("provision"))
    assert played.boards == {FIRST: "same"}, played.text


def test_unit_is_hardened(world: World) -> None:
    world.board.run("systemd-analyze", "security", "--no-pager", f"--threshold={MAX_EXPOSURE}", "edge-agent")


def test_no_disk_can_be_opened_by_the_service(world: World) -> None:
    """Not even by root, once it is among the service's processes."""
    join = f"echo $$ > /sys/fs/cgroup{world.shown('ControlGroup')}/cgroup.procs && exec head -c1"
    assert world.board.run("sh", "-c", f"{join} /dev/zero").stdout == "\0"
    refused = world.board.run("sh", "-c", f"{join} /dev/vda", check=False)
    assert "Operation not permitted" in refused.stderr, refused


def test_worker_is_what_the_kernel_ends_for_want_of_memory(world: World) -> None:
    """At the unit's limit, though another process of the service took it; the agent says so, stays and answers."""
    before = world.shown("MainPID")
    group = f"/sys/fs/cgroup{world.shown('ControlGroup')}"
    current = int(world.shown("MemoryCurrent"))
    world.board.run("systemctl", "set-property", "--runtime", "edge-agent", f"MemoryMax={current + MORE_BYTES}")
    # Of what is in it now, files can be given up; the rest and so much more cannot be had.
    taken = f"taken = b'x' * {current + MORE_BYTES // 2}; import time; time.sleep(10)"
    join = f"echo $$ > {group}/cgroup.procs && echo -400 > /proc/self/oom_score_adj"
    world.board.run("sh", "-c", f'{join} && exec python3 -c "{taken}"', check=False)
    world.board.run("systemctl", "set-property", "--runtime", "edge-agent", "MemoryMax=85%")
    assert "oom_kill 0" not in world.board.run("cat", f"{group}/memory.events").stdout
    wait_until(lambda: world.ask().get("status") == "ok", "it answers again", timeout_s=ANSWER_S)
    assert world.shown("MainPID") == before
    assert "the kernel ended the worker" in world.retained("alarm/memory-low")["message"]


def test_board_comes_back_after_a_restart(world: World) -> None:
    world.board.reboot()
    wait_until(lambda: world.ask().get("status") == "ok", "the board answers", timeout_s=ANSWER_S)


def test_decommissioned_board_keeps_nothing(world: World) -> None:
    played = world.fleet.play(playbook("decommission", f" --limit {FIRST}"))
    assert played.boards == {FIRST: "changed"}, played.text
    left = ["/opt/edge-agent", "/etc/edge-agent", "/var/lib/edge-agent", "/etc/systemd/system/edge-agent.service"]
    assert world.board.run("ls", "-d", *left, check=False).stdout == ""
