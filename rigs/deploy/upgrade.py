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
from rigs.deploy.fleet import Broker
from rigs.deploy.world import FIRST, SECOND, SWITCH_S, WHEELHOUSE, World, documented, playbook
from rigs.machine import RELEASE_0_1_0, ROOT, SOURCES, unpack_source
from tests.helpers.bundles import asked_bundle, sha256_of
from tests.helpers.processes import wait_until

OLD = SOURCES / RELEASE_0_1_0
# The passwords in its sample of a vault.
PASSWORDS = {FIRST: "its-very-own", SECOND: "another-of-its-own", "operator": "the-operators"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    unpack_source(RELEASE_0_1_0)
    folder = tmp_path_factory.mktemp("upgrade")
    with ExitStack() as stack:
        world = World.booted(stack, folder, Broker(folder / "broker", PASSWORDS, OLD))
        world.bundle, world.passwords = asked_bundle(folder), PASSWORDS
        world.prepare(world.bundle, old_wheelhouse(), documented("cp -r example plant"), source=OLD)
        world.watch(stack)
        yield world


def old_wheelhouse() -> Path:
    """The wheelhouse that its own program makes, with today's versions of the other packages."""
    wheels = OLD / "dist" / "wheelhouse" / "x86_64"
    if not wheels.is_dir():
        (OLD / "dist").mkdir(exist_ok=True)
        for wheel in (ROOT / "dist").glob("llama_cpp_python-*_x86_64.whl"):
            shutil.copy(wheel, OLD / "dist")
        subprocess.run([sys.executable, str(OLD / "ansible/wheels/wheelhouse.py"), "x86_64"], check=True)
    return wheels


def test_the_old_playbooks_bring_the_old_version(world: World) -> None:
    world.play(playbook("provision"), "changed", "changed")
    for board in world.boards:
        world.check(board, "0.1.0", world.bundle)


def test_a_rollout_brings_this_version_without_a_lost_request(world: World) -> None:
    world.use_source(ROOT)
    world.use_wheelhouse(WHEELHOUSE)
    since = time.time()
    with world.asked_all_along(world.first) as answers:
        world.play(playbook("rollout"), "changed", "changed")
    assert set(answers) == {sha256_of(world.bundle)}
    for board in world.boards:
        world.check(board, __version__, world.bundle)
        assert 0 < world.away_s(board, since) < SWITCH_S


def test_a_rollback_brings_the_old_version_back_without_a_lost_request(world: World) -> None:
    since = time.time()
    with world.asked_all_along(world.first) as answers:
        world.play(playbook("rollback"), "changed", "changed")
    assert set(answers) == {sha256_of(world.bundle)}
    for board in world.boards:
        world.check(board, "0.1.0", world.bundle)
        assert 0 < world.away_s(board, since) < SWITCH_S
        board.reboot()
        wait_until(lambda: world.ask(board)["status"] == "ok", "the board answers", timeout_s=120)  # noqa: B023


def test_after_another_rollout_the_old_version_is_rolled_out(world: World) -> None:
    """The board keeps one version before the present one, which a rollout of a bundle makes the present one."""
    world.play(playbook("rollout"), "changed", "changed")
    world.use_bundle(world.second_bundle())
    world.play(playbook("rollout"), "changed", "changed")
    world.use_wheelhouse(old_wheelhouse())
    world.play(playbook("rollout"), "changed", "changed")
    world.check(world.first, "0.1.0", world.second_bundle())
    world.use_bundle(world.bundle)
    world.play(f"{playbook('rollout')} -e edge_agent_allow_downgrade=true", "changed", "changed")
    world.check(world.first, "0.1.0", world.bundle)
    world.use_wheelhouse(WHEELHOUSE)


def test_a_key_that_the_old_version_does_not_know_stops_the_way_back_before_it_touches_anything(world: World) -> None:
    with world.edited(("edge_agent_config:\n", "edge_agent_config:\n  feedback: {enabled: true}\n")):
        world.play(playbook("rollout"), "changed", "changed")
        world.play(playbook("provision"), "changed", "changed")
        process = world.process(world.first)
        text = world.play(playbook("rollback"), "failed", "failed")
        assert "feedback: unknown key" in text
        assert world.process(world.first) == process
        world.check(world.first, __version__, world.bundle)
    world.play(playbook("provision"), "changed", "changed")
    world.play(playbook("rollback"), "changed", "changed")
    world.check(world.first, "0.1.0", world.bundle)


def test_the_old_playbooks_go_on_with_boards_that_went_back(world: World) -> None:
    world.use_source(OLD)
    world.use_wheelhouse(old_wheelhouse())
    world.play(playbook("provision"), "changed", "changed")
    for board in world.boards:
        world.check(board, "0.1.0", world.bundle)
    world.play(playbook("provision"), "same", "same")
