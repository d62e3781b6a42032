"""Boards from nothing to an answer and back to nothing, with the commands of docs/fleet.md: `python -m rigs.deploy`.

Each test needs those before it.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent import __version__
from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.deploy.fleet import PLAY_S, Broker, SshBoard
from rigs.deploy.world import AWAY, FIRST, SECOND, SWITCH_S, WHEELHOUSE, World, documented, playbook
from rigs.machine import ROOT
from tests.helpers.bundles import (
    DEMO_TASKS,
    asked_bundle,
    changed,
    converted,
    flip,
    not_loading,
    sha256_of,
    talking_nonsense,
)
from tests.helpers.certificates import OTHER_CERTIFICATE
from tests.helpers.keys import key_sha256, public_pem, write_keys, write_revocations
from tests.helpers.processes import wait_until

# Versions to roll out, of which one works and one does not start.
NEXT, BROKEN_VERSION = "9.0.1", "9.0.2"
CMDLINE = Path("/boot/firmware/cmdline.txt")
# The time until a board that went dark is named.
NAMED_S = 120.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("deploy")
    with ExitStack() as stack:
        world = World.booted(stack, folder, Broker(folder / "broker", {}), missing=(AWAY,))
        for board in world.boards:
            # Like a Raspberry Pi.
            board.run("mkdir", "-p", str(CMDLINE.parent))
            board.run("tee", str(CMDLINE), stdin="console=tty1 root=PARTUUID=1234-02 rootwait\n")
        world.bundle, world.blank = asked_bundle(folder), {board.name: board.files() for board in world.boards}
        world.prepare(world.bundle, WHEELHOUSE, documented("cp -r example plant"))
        played = world.run(playbook("credentials"))
        assert played.code == 0, played.text
        shutil.copytree(world.plant / "mosquitto", folder / "broker", dirs_exist_ok=True)
        world.passwords = world.read_passwords()
        world.watch(stack)
        yield world


def version(folder: Path, number: str, change: tuple[str, str] | None = None) -> Path:
    """A wheelhouse with another version of the agent. `change` is a text in cli.py and its replacement."""
    source = folder / f"source-{number}"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edge_agent", "convert"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    changes = [("edge_agent/__init__.py", f'__version__ = "{__version__}"', f'__version__ = "{number}"')]
    changes += [("edge_agent/cli.py", *change)] if change else []
    for name, old, new in changes:
        text = (source / name).read_text("utf-8")
        assert text.count(old) == 1, f"{name}: {old}"
        (source / name).write_text(text.replace(old, new), "utf-8")
    wheels = Path(shutil.copytree(WHEELHOUSE, folder / f"wheelhouse-{number}"))
    (old_wheel,) = wheels.glob("edge_agent-*.whl")
    old_hash = hashlib.sha256(old_wheel.read_bytes()).hexdigest()
    old_wheel.unlink()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", f"--wheel-dir={wheels}", str(source)], check=True)
    (new_wheel,) = wheels.glob("edge_agent-*.whl")
    text = (wheels / "requirements.txt").read_text("utf-8")
    text = text.replace(f"edge-agent=={__version__}", f"edge-agent=={number}")
    text = text.replace(old_hash, hashlib.sha256(new_wheel.read_bytes()).hexdigest())
    (wheels / "requirements.txt").write_text(text, "utf-8")
    return wheels


def test_dry_run_on_blank_boards_shows_changes_and_touches_nothing(world: World) -> None:
    world.play(playbook("provision", " --check"), "changed", "changed")
    for board in world.boards:
        assert board.files() == world.blank[board.name]


def test_boards_that_are_reached_answer_after_one_command(world: World) -> None:
    text = world.play(playbook("provision"), "changed", "changed")
    for board in world.boards:
        world.check(board, __version__, world.bundle)
    assert not [password for password in world.passwords.values() if password in text]


def test_secrets_are_on_a_board_for_root_alone_and_in_no_log(world: World) -> None:
    password = world.passwords[FIRST]
    found = world.first.run("grep", "-rlF", password, "/etc", "/opt", "/var", "/home", "/root", check=False)
    assert found.stdout.split() == ["/etc/edge-agent/credentials/mqtt_password"]
    output = world.first.run("stat", "-c", "%U %a", "/etc/edge-agent/credentials/mqtt_password").stdout
    assert output.split() == ["root", "600"]
    assert password not in world.first.run("journalctl", "--no-pager").stdout
    # The inventory does not hold a secret of the vault as text either.
    assert not [path for path in world.plant.rglob("*.yml") if password in path.read_text("utf-8")]


def test_memory_controller_is_enabled_where_the_kernel_has_none(world: World) -> None:
    has_it = "memory" in world.first.run("cat", "/sys/fs/cgroup/cgroup.controllers").stdout.split()
    asked = "" if has_it else " cgroup_enable=memory"
    assert world.first.run("cat", str(CMDLINE)).stdout == f"console=tty1 root=PARTUUID=1234-02 rootwait{asked}\n"


def test_a_wrong_clock_is_named(world: World) -> None:
    # The boards have this machine's clock, so the tolerance is one that no clock keeps.
    tolerance = " -e edge_agent_clock_tolerance_s=-1"
    text = world.play(f"{playbook('provision')} --limit {FIRST}{tolerance}", "failed")
    assert re.search(r"The board's clock is -?\d\.\d s off the controller's: name servers", text)


def test_cores_and_swap_are_set_on_request(world: World) -> None:
    world.second.run("mkdir", "-p", "/etc/rpi/swap.conf.d")
    world.second.run("tee", "/etc/fstab", stdin="/dev/sda1 / ext4 rw 0 1\n/swapfile none swap sw 0 0\n")
    words = {"edge_agent_cpu_governor": "ondemand", "edge_agent_card_swap": "off"}
    command = f"{playbook('provision')} --limit {SECOND} --tags edge_agent_board -e '{json.dumps(words)}'"
    world.play(command, None, "changed")
    output = world.second.run("cat", "/etc/tmpfiles.d/edge-agent-governor.conf").stdout
    assert output.endswith("w /sys/devices/system/cpu/cpufreq/policy*/scaling_governor - - - - ondemand\n")
    assert "Mechanism=zram" in world.second.run("cat", "/etc/rpi/swap.conf.d/edge-agent.conf").stdout
    fstab = world.second.run("cat", "/etc/fstab").stdout
    assert fstab == "/dev/sda1 / ext4 rw 0 1\n# by edge-agent: /swapfile none swap sw 0 0\n"
    world.play(command, None, "same")


@pytest.mark.parametrize("words", ["", " --check"])
def test_again_nothing_changes(world: World, words: str) -> None:
    # Nothing is brought, so free disk is not checked.
    world.play(f"{playbook('provision', words)} -e edge_agent_disk_spare_mb=99999999", "same", "same")


def test_board_comes_back_after_a_restart(world: World) -> None:
    world.first.reboot()
    wait_until(lambda: world.ask(world.first)["status"] == "ok", "the board answers", timeout_s=120)


def test_report_names_the_board_that_was_not_reached_and_what_differs_on_the_others(world: World) -> None:
    world.second.run("sed", "-i", "s/deadline_ms = 5000/deadline_ms = 4000/", "/etc/edge-agent/config.toml")
    assert world.run(playbook("report")).code == 2
    rows = {line.split("|")[1].strip(): line for line in report(world).splitlines()[2:]}
    assert sorted(rows) == sorted((FIRST, SECOND, AWAY))
    assert "not reached" in rows[AWAY]
    assert rows[FIRST].endswith("|  |"), rows[FIRST]
    assert rows[SECOND].endswith("| config.toml |"), rows[SECOND]
    # Bundles of one name and version are distinguishable.
    assert re.search(rf"\| {world.runs(world.first)[1]} \(\w+, \d+ MB\) \|", rows[FIRST]), rows[FIRST]
    text = world.play(playbook("provision"), "same", "changed")
    text = world.second.run("cat", "/etc/edge-agent/config.toml").stdout
    assert "deadline_ms = 5000" in text
    world.run(playbook("report"))
    assert "config.toml" not in report(world)
    # With --limit, it reads only these boards.
    assert world.run(f"{playbook('report')} --limit {FIRST}").code == 0
    assert [line.split("|")[1].strip() for line in report(world).splitlines()[2:]] == [FIRST]


def report(world: World) -> str:
    return (world.repository / "ansible" / "report.md").read_text("utf-8")


def test_configuration_that_is_wrong_replaces_nothing(world: World) -> None:
    before = world.first.run("cat", "/etc/edge-agent/config.toml").stdout
    with world.edited(("deadline_ms: 5000", "deadline: 5000")):
        played = world.run(playbook("provision"))
    assert played.boards[FIRST] == "failed"
    assert "tasks.pump-triage.deadline: unknown key" in played.text
    assert world.first.run("cat", "/etc/edge-agent/config.toml").stdout == before
    assert world.ask(world.first)["status"] == "ok"


WRONG = {
    "password": (
        ("(vault_mqtt_passwords | default({}))[edge_agent_device]", "'of somebody else'"),
        "refuses the connection: Not authorized → check mqtt.username",
    ),
    "name": (("host: localhost", "host: nowhere.invalid"), "cannot be reached: "),
    "authority": (("inventory_dir ~ '/ca.pem'", "inventory_dir ~ '/other.pem'"), "certificate verify failed: "),
    "access": (("  username:", "  root: of/others\n  username:"), "this board may not "),
}


@pytest.mark.parametrize("what", WRONG)
def test_configuration_that_the_broker_refuses_is_named_at_once_and_replaces_nothing(world: World, what: str) -> None:
    edit, expected = WRONG[what]
    (world.plant / "other.pem").write_text(OTHER_CERTIFICATE, "ascii")
    before, process = configuration(world.first), world.process(world.first)
    with world.edited(edit):
        # Only the first of the boards that serve.
        text = world.play(f"{playbook('provision')} --tags edge_agent_configure", "failed", "same")
    assert expected in text
    assert (configuration(world.first), world.process(world.first)) == (before, process)
    assert world.ask(world.first)["status"] == "ok"


def configuration(board: SshBoard) -> str:
    """The content, time and owner of the files."""
    output = board.run("find", "/etc/edge-agent", "-type", "f", "-printf", "%p %T+ %m %u %g\n").stdout
    return output + board.run("cat", "/etc/edge-agent/config.toml").stdout


def test_configuration_that_fails_only_at_the_start_is_taken_back(world: World) -> None:
    """The configuration names a public key that did not sign the bundle."""
    before = configuration(world.first)
    (world.plant / "signer.pem").write_bytes(public_pem(Ed25519PrivateKey.generate()))
    signer = "  signer.pem: \"{{ lookup('ansible.builtin.file', inventory_dir ~ '/signer.pem') }}\"\n"
    edits = (
        ("edge_agent_files:\n", f"edge_agent_files:\n{signer}"),
        ("edge_agent_config:\n", "edge_agent_config:\n  models: {default: {public_key: signer.pem}}\n"),
    )
    with world.edited(*edits):
        output = " ".join(world.play(playbook("provision"), "failed", "same").split())
    for words in ("a configured public key requires a good signature", "returned to", "which answers"):
        assert words in output
    assert configuration(world.first) == before
    assert world.ask(world.first)["status"] == "ok"
    world.play(playbook("provision"), "same", "same")


def test_diagnostics_are_brought_from_a_board_that_does_not_answer(world: World) -> None:
    words = f" --limit {FIRST} --tags edge_agent_verify -e edge_agent_verify_task=none"
    text = world.play(playbook("provision") + words, "failed")
    assert "unknown_task" in text
    assert "log: INFO" in text
    with tarfile.open(world.repository / "ansible" / f"edge-diag-{FIRST}.tar.gz") as archive:
        assert any(name.endswith("/contents.json") for name in archive.getnames())
    assert not world.first.run("ls", "/run/edge-agent-diag.tar.gz", check=False).stdout


# The size stays as it was.
FLIP = "printf x | dd conv=notrunc bs=1 seek=9000 of="


def test_damage_that_the_agent_has_not_noticed_is_shown_and_repaired(world: World) -> None:
    folder = f"/var/lib/edge-agent/models/{world.runs(world.first)[1]}"
    world.first.run("sh", "-c", f"cd {folder} && {FLIP}model.gguf")
    world.run(f"{playbook('report')} --limit {FIRST}")
    assert "bundle damaged" in report(world)
    world.play(f"{playbook('provision')} --limit {FIRST}", "changed")
    world.check(world.first, __version__, world.bundle)
    world.run(f"{playbook('report')} --limit {FIRST}")
    assert "damaged" not in report(world)


@pytest.mark.parametrize("damage", ["rm ", "truncate --size=100 ", FLIP])
def test_damaged_file_of_a_bundle_is_copied_again(world: World, damage: str) -> None:
    folder = f"/var/lib/edge-agent/models/{world.runs(world.first)[1]}"
    world.first.run("sh", "-c", f"cd {folder} && {damage}model.gguf")
    world.first.run("systemctl", "restart", "edge-agent")
    status = ("systemctl", "show", "--value", "--property=StatusText", "edge-agent")
    wait_until(lambda: "model-load-failed" in world.first.run(*status).stdout, "the agent says so", timeout_s=60)
    world.play(f"{playbook('provision')} --limit {FIRST}", "changed")
    world.check(world.first, __version__, world.bundle)


def test_new_version_is_rolled_out(world: World) -> None:
    world.use_wheelhouse(version(world.folder, NEXT))
    since = time.time()
    text = world.play(playbook("rollout"), "changed", "changed")
    assert "lathe-01 could not be reached; the next play takes them" in text
    for board in world.boards:
        world.check(board, NEXT, world.bundle)
        assert 0 < world.away_s(board, since) < SWITCH_S


def damaged_copy(world: World) -> Path:
    copy = changed(world.bundle, world.folder / "wrong-hash", lambda _: None, 2)
    flip(copy / "model.gguf")
    return copy


BROKEN = {
    "wrong hash": (damaged_copy, "is not what its manifest lists"),
    "does not load": (lambda world: not_loading(world.bundle, world.folder), "bundle_refused: "),
    "talks nonsense": (lambda world: talking_nonsense(world.bundle, world.folder), "canaries_differ: "),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_bundle_is_refused_without_an_interruption(world: World, fault: str) -> None:
    make, expected = BROKEN[fault]
    world.use_bundle(make(world))
    since, old, process = time.time(), world.runs(world.first), world.process(world.first)
    with world.asked_all_along(world.first) as answers:
        text = world.play(playbook("rollout"), "failed", "same")
    # The first batch is one board and fails, so no other batch starts.
    assert expected in text
    assert world.runs(world.first) == world.runs(world.second) == old
    assert world.process(world.first) == process
    assert world.away_s(world.first, since) == world.away_s(world.second, since) == 0
    assert folders(world.first) == [old[1]]
    assert set(answers) == {sha256_of(world.bundle)}


def folders(board: SshBoard) -> list[str]:
    """The bundles on a board."""
    find = ("find", "/var/lib/edge-agent/models", "-mindepth", "1", "-type", "d", "-printf", "%f\n")
    return sorted(board.run(*find).stdout.split())


def test_version_that_does_not_start_gives_way_to_the_one_before(world: World) -> None:
    world.use_bundle(world.bundle)
    change = ("return Agent(config, path, *open_or_placeholder(config)).run()", 'raise SystemExit("does not want to")')
    world.use_wheelhouse(version(world.folder, BROKEN_VERSION, change))
    since, old = time.time(), world.runs(world.first)
    # Too little memory for a probe beside the service, which has to be stopped first.
    total_mb = int(world.first.run("awk", "/MemTotal/ {print $2}", "/proc/meminfo").stdout) * 1024 // 1_000_000
    text = world.play(f"{playbook('rollout')} -e edge_agent_memory_spare_mb={total_mb - 50}", "failed", "same")
    assert "does not want to" in text
    assert "which answers" in text
    assert world.runs(world.first) == world.runs(world.second) == old
    assert world.ask(world.first)["status"] == "ok"
    assert 0 < world.away_s(world.first, since) < SWITCH_S
    assert world.first.run("ls", "/opt/edge-agent/versions").stdout.split() == versions_kept(world)


def versions_kept(world: World) -> list[str]:
    links = ("/opt/edge-agent/current", "/opt/edge-agent/previous")
    return sorted(world.first.run("readlink", link).stdout.strip().split("/")[-1] for link in links)


def test_new_bundle_is_rolled_out_and_rolled_back_without_a_restart(world: World) -> None:
    world.use_wheelhouse(world.folder / f"wheelhouse-{NEXT}")
    new = world.second_bundle()
    world.use_bundle(new)
    since, old = time.time(), world.runs(world.first)
    processes = [world.process(board) for board in world.boards]
    with world.asked_all_along(world.first) as answers:
        text = world.play(playbook("rollout"), "changed", "changed")
    assert "without a restart" in text
    # The old model, then the new one, without a gap.
    assert list(dict.fromkeys(answers)) == [sha256_of(world.bundle), sha256_of(new)]
    for board in world.boards:
        assert world.runs(board)[0] == old[0]
        assert world.runs(board)[1].startswith("pump-demo-2-")
        assert world.ask(board)["model"]["sha256"] == sha256_of(new)
        assert world.away_s(board, since) == 0
        assert folders(board) == sorted((old[1], world.runs(board)[1]))
    with world.asked_all_along(world.first) as answers:
        text = world.play(playbook("rollback"), "changed", "changed")
    assert list(dict.fromkeys(answers)) == [sha256_of(new), sha256_of(world.bundle)]
    for board in world.boards:
        assert world.runs(board) == old
        assert world.ask(board)["model"]["sha256"] == sha256_of(world.bundle)
        assert world.away_s(board, since) == 0
    assert [world.process(board) for board in world.boards] == processes
    # Like boards that a rollout has not reached.
    text = world.play(playbook("rollback"), "same", "same")
    assert f"Left as it is: it runs {' with '.join(old)}, not" in " ".join(text.split())
    assert world.runs(world.first) == world.runs(world.second) == old
    world.run(playbook("report"))
    assert "bundle should be pump-demo-2-" in report(world)


def test_bundle_that_was_switched_without_the_playbooks_is_named_and_kept(world: World) -> None:
    """It was switched by an operator's command, or by a rollout that lost power before it changed the links."""
    old, process = world.runs(world.second)[1], world.process(world.second)
    new = next(folder for folder in folders(world.second) if folder != old)
    fields = json.dumps({"model": "default", "bundle": new})
    done = world.second.run("/usr/local/bin/edge-agent", "command", "model-switch", fields)
    assert json.loads(done.stdout)["data"]["new"]["version"] == 2
    world.run(playbook("report"))
    (row,) = (line for line in report(world).splitlines() if SECOND in line)
    assert row.endswith(f"| link names {old} |"), row
    command = f"{playbook('rollout')} --limit {SECOND}"
    world.play(command, None, "changed")
    assert world.runs(world.second)[1] == new
    assert world.process(world.second) == process
    assert ": nothing to do" in world.play(command, None, "same")


def is_switching(world: World) -> bool:
    return not world.first.run("test", "-e", "/opt/edge-agent/switching.json", check=False).returncode


def test_switch_whose_controller_died_is_finished_by_the_next_play(world: World) -> None:
    """The switch is of version and bundle at once."""
    world.use_wheelhouse(WHEELHOUSE)
    command = f"{playbook('rollout')} --limit {FIRST}"
    with world.started(command) as controller:
        wait_until(lambda: is_switching(world), "the switch begins", timeout_s=600)
        os.killpg(controller.pid, signal.SIGKILL)
    world.run(playbook("report"))
    assert "switch was interrupted" in report(world)
    world.play(command, "changed")
    assert not is_switching(world)
    world.check(world.first, __version__, world.second_bundle())


def test_version_and_bundle_go_back_together(world: World) -> None:
    world.play(f"{playbook('rollback')} --limit {FIRST}", "changed")
    world.check(world.first, NEXT, world.bundle)


def test_board_that_goes_dark_during_a_switch_is_named_and_finishes_it_when_it_is_back(world: World) -> None:
    world.use_wheelhouse(world.folder / f"wheelhouse-{NEXT}")
    command = f"{playbook('rollout')} --limit {FIRST}"
    with world.started(command) as controller:
        wait_until(lambda: is_switching(world), "the switch begins", timeout_s=600)
        world.first.stop()
        since = time.monotonic()
        text, _ = controller.communicate(timeout=PLAY_S)
    assert time.monotonic() - since < NAMED_S
    assert "unreachable=1" in text
    world.first.start()
    world.play(command, "changed")
    assert world.runs(world.first)[0].startswith(f"{NEXT}-")
    assert not is_switching(world)
    assert world.ask(world.first)["status"] == "ok"


def test_a_key_is_replaced_and_revoked_and_no_board_refuses_all_bundles_on_the_way(world: World) -> None:
    (old, old_public), (new, new_public) = (write_keys(world.folder, name) for name in ("old", "new"))
    publics, listed = (old_public, new_public), world.plant / "revocations.json"
    for public in publics:
        shutil.copy(public, world.plant)
    contents = "".join(
        f"  {public.name}: \"{{{{ lookup('ansible.builtin.file', inventory_dir ~ '/{public.name}') }}}}\"\n"
        for public in publics
    )
    names = ", ".join(public.name for public in publics)
    with_keys = (
        ("edge_agent_files:\n", f"edge_agent_files:\n{contents}"),
        ("edge_agent_config:\n", f"edge_agent_config:\n  models: {{default: {{public_keys: [{names}]}}}}\n"),
    )
    with_list = ("edge_agent_site:", f"edge_agent_revocations: {listed}\nedge_agent_site:")
    third, fourth = (signed_bundle(world, number, key) for number, key in ((3, old), (4, new)))
    world.use_bundle(third)
    world.play(playbook("rollout"), "changed", "changed")
    with world.edited(*with_keys):
        world.play(playbook("provision"), "changed", "changed")
        world.use_bundle(fourth)
        world.play(playbook("rollout"), "changed", "changed")
        write_revocations(listed, new, 1, keys=[key_sha256(old_public)])
        with world.edited(with_list):
            world.play(playbook("provision"), "changed", "changed")
            process = world.process(world.first)
            write_revocations(listed, new, 2, keys=[key_sha256(old_public)])
            world.run(playbook("report"))
            assert report(world).count("| revocations.json |") == 2
            world.play(playbook("provision"), "changed", "changed")
            assert world.process(world.first) == process
            assert "revoked: " in world.play(playbook("rollback"), "failed", "failed")
            for board in world.boards:
                assert world.ask(board)["model"]["sha256"] == sha256_of(fourth)


def signed_bundle(world: World, number: int, key: Path) -> Path:
    asked = ("--tasks", DEMO_TASKS, "--canaries", world.folder / "requests.jsonl", "--sign", key)
    return converted(checkpoint_folder(), world.folder / f"signed-{number}", "--model-version", number, *asked)


def test_boards_are_not_decommissioned_unless_they_are_named(world: World) -> None:
    whole = playbook("decommission", f" --limit {FIRST}").removesuffix(f" --limit {FIRST}")
    played = world.run(whole)
    assert set(played.boards.values()) == {"failed"}, played.text
    assert "Nothing was done: name the boards by --limit" in played.text
    assert world.ask(world.first)["status"] == "ok"


def test_nothing_stays_on_a_board_that_is_decommissioned(world: World) -> None:
    leavings = ("find", "/home/pi/.ansible", "-name", "AnsiballZ_edge_agent_*")
    world.play(playbook("decommission", f" --limit {FIRST}"), "changed")
    assert not world.first.run(*leavings).stdout
    left = world.first.files() ^ world.blank[FIRST]
    assert not left
    for database in ("passwd", "group"):
        assert world.first.run("getent", database, "edge-agent", check=False).returncode == 2
    assert world.first.run("systemctl", "cat", "edge-agent", check=False).returncode == 1
    world.play(playbook("decommission", f" --limit {FIRST}"), "same")
    assert world.ask(world.second)["status"] == "ok"
