"""What the tests of boards share: two boards, their broker, the technician's playbooks, and a client's questions."""

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.deploy.fleet import Broker, Fleet, SshBoard
from rigs.machine import ROOT
from tests.docs.pages import commands
from tests.helpers.bundles import DEMO_TASKS, converted, sha256_of

WHEELHOUSE = ROOT / "dist" / "wheelhouse" / "x86_64"
FIRST, SECOND, AWAY = "press-04", "press-05", "lathe-01"
# A stop and start of the service, and again with the version before, on a busy machine.
SWITCH_S = 60.0


def documented(command: str) -> str:
    """The command, which must be in docs/fleet.md."""
    assert command in commands("fleet")
    return command


def playbook(name: str, words: str = "") -> str:
    return documented(f"ansible-playbook -i plant/hosts.yml {name}.yml{words}")


class World(Fleet):
    """Two boards that ssh reaches, with a bundle and what a client hears of them."""

    bundle: Path
    passwords: dict[str, str]
    """The passwords by account."""
    blank: dict[str, set[str]]
    """The files of each board when it was blank."""
    first: SshBoard
    second: SshBoard

    @classmethod
    def booted(cls, stack: ExitStack, folder: Path, broker: Broker, missing: tuple[str, ...] = ()) -> Self:
        """The boards are blank, and run until the stack ends; `missing` names boards that are away."""
        # pytest must not remove it.
        place = Path(tempfile.mkdtemp(prefix="edge-agent-boards-"))
        stack.callback(place.rmdir)
        world = cls(folder, [SshBoard(place, name) for name in (FIRST, SECOND)], broker, missing)
        world.first, world.second = world.boards
        for board in world.boards:
            stack.callback(board.discard)
            board.start()
            board.admit(world.public_key)
        return world

    def watch(self, stack: ExitStack) -> None:
        """Starts the broker, and writes each state of a board with its time to `states`, until the stack ends."""
        stack.enter_context(self.broker)
        command = ["mosquitto_sub", *self.broker_options, "-t", "edgeai/v1/+/+/state", "-F", "%U %t %p"]
        log = stack.enter_context((self.folder / "states").open("wb"))
        watcher = stack.enter_context(subprocess.Popen(command, stdout=log))
        stack.callback(watcher.terminate)

    def second_bundle(self) -> Path:
        """Another model in version 2, with its own canaries."""
        bundle = self.folder / "second"
        if not bundle.is_dir():
            asked = ("--tasks", DEMO_TASKS, "--canaries", self.folder / "requests.jsonl")
            converted(checkpoint_folder(), bundle, "--model-version", 2, *asked, quantization="q8_0")
        return bundle

    def play(self, command: str, first: str | None, second: str | None = None) -> str:
        """What the command prints. Both boards must end as given, or not be begun by the play if that is None."""
        played = self.run(command)
        assert (played.boards.get(FIRST), played.boards.get(SECOND)) == (first, second), played.text
        # A rollout ignores the board that is away; at the end, if it gets there, it fails for that board and names it.
        assert played.boards.get(AWAY) != "changed", played.text
        return played.text

    def runs(self, board: SshBoard) -> tuple[str, str]:
        """The version and the bundle."""
        links = ("/opt/edge-agent/current", "/var/lib/edge-agent/models/current")
        agent, bundle = (board.run("readlink", link).stdout.strip().split("/")[-1] for link in links)
        return agent, bundle

    def check(self, board: SshBoard, version: str, bundle: Path) -> None:
        """The board runs this version and answers with this bundle."""
        assert self.runs(board)[0].startswith(f"{version}-")
        assert board.run("/usr/local/bin/edge-agent", "--version").stdout.split()[:2] == ["edge-agent", version]
        reply = self.ask(board)
        assert (reply["status"], reply["model"]["sha256"]) == ("ok", sha256_of(bundle)), reply

    def ask(self, board: SshBoard, reply_name: str = "operator") -> dict[str, Any]:
        """One request of an operator's client, from this machine."""
        topic = f"edgeai/v1/hall1/{board.name}/infer/pump-triage/request"
        command = ["mosquitto_rr", *self.broker_options, "-V", "5", "-q", "1", "-W", "30"]
        command += ["-t", topic, "-e", f"edgeai/v1/reply/{reply_name}"]
        # Longer than the task's deadline, because this machine is busy, and only the time is measured.
        question = json.dumps({"input": {"vibration_mm_s": 7.9}, "deadline_ms": 25_000})
        done = subprocess.run([*command, "-m", question], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        reply: dict[str, Any] = json.loads(done.stdout)
        return reply

    @contextmanager
    def asked_all_along(self, board: SshBoard) -> Iterator[list[str]]:
        """The model of each answer to a client that asks one question after the other."""
        answers: list[str] = []
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                reply = self.ask(board, "all-along")
                assert reply["status"] == "ok", reply
                answers.append(reply["model"]["sha256"])

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            yield answers
        finally:
            is_over.set()
            asker.join()

    def process(self, board: SshBoard) -> str:
        """Names the process; it changes with every start of the service."""
        return board.run("systemctl", "show", "edge-agent", "-p", "MainPID", "-p", "NRestarts").stdout

    @property
    def broker_options(self) -> list[str]:
        authority = self.folder / "broker" / "ca.pem"
        server = ["-h", "localhost", "-p", str(self.broker.port), "--cafile", str(authority)]
        return [*server, "-u", "operator", "-P", self.passwords["operator"]]

    def away_s(self, board: SshBoard, since: float) -> float:
        """The longest time since then in which the board was not `online` on the bus."""
        longest, left_at = 0.0, None
        for line in (self.folder / "states").read_text("utf-8").splitlines():
            at, topic, payload = line.split(" ", 2)
            if f"/{board.name}/" not in topic or float(at) < since:
                continue
            is_online = json.loads(payload)["state"] == "online"
            if is_online and left_at is not None:
                longest, left_at = max(longest, float(at) - left_at), None
            elif not is_online and left_at is None:
                left_at = float(at)
        assert left_at is None, f"{board.name} is not back"
        return longest
