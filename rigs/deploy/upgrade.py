"""Boards of 0.1.0, which its own playbooks brought, get this version and go back: `python -m rigs.deploy upgrade`.

Each test needs those before it. While a board is updated and taken back, a client asks it: no request is lost.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_agent import __version__
from rigs.deploy.fleet import Broker, SshBoard
from rigs.deploy.world import FIRST, SECOND, SWITCH_S, WHEELHOUSE, World, booted_fleet, documented, playbook
from rigs.machine import RELEASE_0_1_0, ROOT, SOURCES, unpack_source
from tests.helpers.bundles import asked_bundle, sha256_of
from tests.helpers.processes import wait_until

OLD = SOURCES / RELEASE_0_1_0
# Those of its sample of a vault.
PASSWORDS = {FIRST: "its-very-own", SECOND: "another-of-its-own", "operator": "the-operators"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    unpack_source(RELEASE_0_1_0)
    folder = tmp_path_factory.mktemp("upgrade")
    bundle = asked_bundle(folder)
    with ExitStack() as stack:
        fleet = booted_fleet(stack, folder, Broker(folder / "broker", PASSWORDS, OLD))
        fleet.prepare(bundle, old_wheelhouse(), documented("cp -r example plant"), source=OLD)
        world = World(fleet, bundle, PASSWORDS)
        world.watch(stack)
        yield world


def old_wheelhouse() -> Path:
    """Made by its own program, with today's versions of the other packages."""
    wheels = OLD / "dist" / "wheelhouse" / "x86_64"
    if not wheels.is_dir():
        (OLD / "dist").mkdir(exist_ok=True)
        for wheel in (ROOT / "dist").glob("llama_cpp_python-*_x86_64.whl"):
            shutil.copy(wheel, OLD / "dist")
        subprocess.run([sys.executable, str(OLD / "ansible/wheels/wheelhouse.py"), "x86_64"], check=True)
    return wheels


def check_version(world: World, board: SshBoard, version: str, bundle: Path) -> None:
    assert world.runs(board)[0].startswith(f"{version}-")
    assert board.run("/usr/local/bin/edge-agent", "--version").stdout.split()[:2] == ["edge-agent", version]
    reply = world.ask(board)
    assert (reply["status"], reply["model"]["sha256"]) == ("ok", sha256_of(bundle)), reply


def test_the_old_playbooks_bring_the_old_version(world: World) -> None:
    world.play(playbook("provision"), "changed", "changed")
    for board in (world.first, world.second):
        check_version(world, board, "0.1.0", world.bundle)


def test_a_rollout_brings_this_version_without_a_lost_request(world: World) -> None:
    world.fleet.use_source(ROOT)
    world.fleet.use_wheelhouse(WHEELHOUSE)
    since = time.time()
    with world.asked_all_along(world.first) as answers:
        world.play(playbook("rollout"), "changed", "changed")
    assert set(answers) == {sha256_of(world.bundle)}
    for board in (world.first, world.second):
        check_version(world, board, __version__, world.bundle)
        assert 0 < world.away_s(board, since) < SWITCH_S


def test_a_rollback_brings_the_old_version_back_without_a_lost_request(world: World) -> None:
    since = time.time()
    with world.asked_all_along(world.first) as answers:
        world.play(playbook("rollback"), "changed", "changed")
    assert set(answers) == {sha256_of(world.bundle)}
    for board in (world.first, world.second):
        check_version(world, board, "0.1.0", world.bundle)
        assert 0 < world.away_s(board, since) < SWITCH_S
        board.reboot()
        wait_until(lambda: world.ask(board)["status"] == "ok", "the board answers", timeout_s=120)  # noqa: B023


def test_version_and_bundle_cross_together_and_go_back_together(world: World) -> None:
    newer = world.second_bundle()
    world.fleet.use_bundle(newer)
    world.play(playbook("rollout"), "changed", "changed")
    check_version(world, world.first, __version__, newer)
    world.play(playbook("rollback"), "changed", "changed")
    check_version(world, world.first, "0.1.0", world.bundle)
    world.fleet.use_bundle(world.bundle)


def test_after_another_rollout_the_old_version_is_rolled_out(world: World) -> None:
    """The board keeps one version before the present one, which a rollout of a bundle makes the present one."""
    world.play(playbook("rollout"), "changed", "changed")
    world.fleet.use_bundle(world.second_bundle())
    world.play(playbook("rollout"), "changed", "changed")
    world.fleet.use_wheelhouse(old_wheelhouse())
    world.play(playbook("rollout"), "changed", "changed")
    check_version(world, world.first, "0.1.0", world.second_bundle())
    world.fleet.use_bundle(world.bundle)
    world.play(f"{playbook('rollout')} -e edge_agent_allow_downgrade=true", "changed", "changed")
    check_version(world, world.first, "0.1.0", world.bundle)
    world.fleet.use_wheelhouse(WHEELHOUSE)


def test_a_key_that_the_old_version_does_not_know_stops_the_way_back_before_it_touches_anything(world: World) -> None:
    with world.fleet.edited(("edge_agent_config:\n", "edge_agent_config:\n  feedback: {enabled: true}\n")):
        world.play(playbook("rollout"), "changed", "changed")
        world.play(playbook("provision"), "changed", "changed")
        process = world.process(world.first)
        text = world.play(playbook("rollback"), "failed", "failed")
        assert "feedback: unknown key" in text
        assert world.process(world.first) == process
        check_version(world, world.first, __version__, world.bundle)
    world.play(playbook("provision"), "changed", "changed")
    world.play(playbook("rollback"), "changed", "changed")
    check_version(world, world.first, "0.1.0", world.bundle)


def test_the_old_playbooks_go_on_with_boards_that_went_back(world: World) -> None:
    world.fleet.use_source(OLD)
    world.fleet.use_wheelhouse(old_wheelhouse())
    world.play(playbook("provision"), "changed", "changed")
    for board in (world.first, world.second):
        check_version(world, board, "0.1.0", world.bundle)
    world.play(playbook("provision"), "same", "same")


def test_the_brokers_files_of_this_version_keep_the_passwords(world: World) -> None:
    world.fleet.use_source(ROOT)
    world.fleet.use_wheelhouse(WHEELHOUSE)
    vault = world.fleet.plant / "group_vars" / "boards" / "vault.yml"
    vault.write_text(f"{vault.read_text('utf-8')}  operator: {PASSWORDS['operator']}\n", "utf-8")
    played = world.fleet.play(playbook("credentials"))
    assert played.code == 0, played.text
    found = world.fleet.passwords()
    assert {name: found[name] for name in PASSWORDS} == PASSWORDS
    shutil.copytree(world.fleet.plant / "mosquitto", world.folder / "broker", dirs_exist_ok=True)
    world.fleet.broker.stop()
    world.fleet.broker.start()
    world.play(playbook("rollout"), "changed", "changed")
    check_version(world, world.first, __version__, world.bundle)
