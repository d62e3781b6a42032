"""The container image: size, equal bytes, what a process may do inside, and the answers of this machine. Needs root.

The wheelhouse in dist/ becomes an image twice. Podman runs it with runc, by the command of systemd/edge-agent.container
without its cgroup and its priority when memory is short; `rigs.deploy container` has systemd.
An aarch64 image runs with qemu, here on x86-64. Exit code 1 if anything differs.
"""

import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.tools.ask import ask
from edge_agent.tools.bus import Bus
from edge_agent.tools.demo import demo
from edge_agent.tools.demo.broker import local_mqtt, start_broker
from edge_agent.tools.demo.readings import tasks
from rigs.arm.roots import prepare_machine
from rigs.container.engine import IMAGE, Engine
from rigs.llama_sources import run_program
from rigs.machine import ROOT, parser_of, require, run_tests
from tests.helpers.bundles import convert_demo_model
from tests.helpers.client import Client
from tests.helpers.site import online

NEEDED = {
    "podman": "podman",
    "runc": "runc",
    "umoci": "umoci",
    "mmdebstrap": "mmdebstrap",
    "docker-compose": "docker-compose",
    "systemd-analyze": "systemd",
}
MAX_MB = 150.0
# Kernels round differently.
MAX_SCORE_DIFFERENCE = 0.02
_MODELS = "/var/lib/edge-agent/models"
# Emulated, a start with its measurements takes minutes.
_START_S, _DEADLINE_MS = 1200.0, 300_000
_USER = 65532
# What a process in the container may do; it prints what is wrong.
_PROBE = """
import errno, os, re
status = open("/proc/self/status").read()
field = lambda name: re.search(rf"^{name}:\\t(.*)$", status, re.M)[1].split()
faults = [] if field("Uid") == ["65532"] * 4 else [f"it runs as {field('Uid')}"]
faults += [f"it has {name}" for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb") if int(field(name)[0], 16)]
faults += [] if field("NoNewPrivs") == ["1"] else ["it may gain privileges"]
faults += [] if field("Seccomp") == ["2"] else ["no filter of system calls"]
for folder in ("/", "/etc/edge-agent", "/usr/local/lib", "/var/lib/edge-agent/models", "/run", "/sys/class"):
    try:
        open(f"{folder}/probe", "w").close()
        faults.append(f"it can write to {folder}")
    except OSError as error:
        faults += [] if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else [f"{folder}: {error}"]
for folder in ("/tmp", "/var/lib/edge-agent/state"):
    open(f"{folder}/probe", "w").close()
    os.unlink(f"{folder}/probe")
mounts = {line.split()[4]: line.split()[5] for line in open("/proc/self/mountinfo")}
faults += [f"{path} is mounted {mounts.get(path)}" for path in ("/", "/sys") if not mounts[path].startswith("ro")]
faults += [] if os.listdir("/sys/firmware") else ["/sys/firmware is hidden"]
print("; ".join(faults))
"""
# Intel's power meters are for root alone, and hidden in a container.
_SENSORS = """
from pathlib import Path
from edge_agent.board.board import Board
board = Board(Path("/"), Path("/tmp"))
print(board.model(), sorted(sensor.key for sensor in board.sensors() if not sensor.key.startswith("intel-rapl:")))
"""


def main() -> int:
    parser = parser_of("rigs.container", __doc__)
    parser.add_argument("arch", nargs="?", choices=("x86_64", "aarch64"), default=platform.machine())
    given = parser.parse_args()
    is_emulated = given.arch != platform.machine()
    require(NEEDED, root=True)
    if is_emulated:
        prepare_machine()
    if code := run_tests("--quiet", "tests/test_container.py"):
        return code
    image, faults = _made(given.arch)
    if image.stat().st_size > MAX_MB * 1e6:
        faults.append(f"{image} has more than {MAX_MB:.0f} MB")
    work = ROOT / "build" / "container" / given.arch
    engine = Engine(work)
    engine.discard()
    work.mkdir(parents=True)
    try:
        engine.load(image)
        asked = [reading.payload for reading in demo.chosen_readings()][: 4 if is_emulated else 12]
        faults += _compared(engine, given.arch, work, asked)
    finally:
        engine.discard()
    print("\n".join(faults) or "everything is as expected")
    return 1 if faults else 0


def _made(arch: str) -> tuple[Path, list[str]]:
    """The image, made twice."""
    image = ROOT / "dist" / "images" / f"edge-agent-{__version__}-{arch}.oci.tar"
    sums = []
    for _ in range(2):
        begun = time.monotonic()
        run_program([sys.executable, str(ROOT / "ansible" / "wheels" / "image.py"), arch])
        sums.append(hashlib.sha256(image.read_bytes()).hexdigest())
        print(f"image      {sums[-1][:12]}, {image.stat().st_size / 1e6:.1f} MB, {time.monotonic() - begun:.0f} s")
    return image, [] if sums[0] == sums[1] else ["two images of one wheelhouse differ"]


def _compared(engine: Engine, arch: str, work: Path, readings: Sequence[str]) -> list[str]:
    """What the container does differently from the agent of this machine."""
    bundle = convert_demo_model(work / "models", demo.QUANTIZATION)
    (work / "outside").mkdir()
    broker = start_broker(None, work / "outside")
    try:
        bus = Bus(mqtt=local_mqtt(broker.port), site=demo.SITE, device=demo.DEVICE)
        outside = _configure(work / "outside", demo._config(bundle, broker.port))
        with closing(Client(broker.port, "5")) as client:
            client.subscribe(bus.topics.state)
            with online(outside, client, bus.topics.base, timeout_s=_START_S):
                expected = _answers(bus, readings)
        # The state lies where it lies by default.
        text = demo._config(Path(_MODELS) / bundle.name, broker.port).partition("\n")[2]
        _configure(work / "etc", text)
        return _contained(engine, arch, work, bus, readings, expected)
    finally:
        broker.stop()


def _configure(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(text, "utf-8")
    (folder / "diagnosis.schema.json").write_text(json.dumps(tasks()[demo.DIAGNOSIS]["schema"]), "utf-8")
    return config


def _contained(
    engine: Engine, arch: str, work: Path, bus: Bus, readings: Sequence[str], expected: list[Any]
) -> list[str]:
    """The faults of a container from its start to its end."""
    engine.run("run", "--rm", "--network=none", IMAGE, ends_with=78)
    state = work / "state"
    state.mkdir()
    shutil.chown(state, _USER, _USER)
    mounts = {"/etc/edge-agent": work / "etc", _MODELS: work / "models", "/var/lib/edge-agent/state": state}
    begun = time.monotonic()
    assert bus.mqtt.port is not None
    with closing(Client(bus.mqtt.port, "5")) as client:
        engine.start(mounts)
        client.subscribe(bus.topics.state)
        client.wait_for(bus.topics.state, lambda said: said["state"] == "online", _START_S)
    print(f"start      {time.monotonic() - begun:.1f} s until it is online", flush=True)
    found = _answers(bus, readings)
    faults = [
        f"{one[0]} is answered {here}, outside {one}"
        for here, one in zip(found, expected, strict=True)
        if _differ(here, one)
    ]
    machine = engine.run("exec", "edge-agent", "python3", "-c", "import platform; print(platform.machine())").strip()
    version = engine.run("exec", "edge-agent", "edge-agent", "--version").strip()
    print(f"inside     {version} on {machine}")
    if version.split()[:2] != ["edge-agent", __version__] or machine != arch:
        faults.append(f"it is {version} on {machine}")
    engine.run("healthcheck", "run", "edge-agent")
    if wrong := engine.run("exec", "edge-agent", "python3", "-c", _PROBE).strip():
        faults.append(wrong)
    here = engine.run("exec", "edge-agent", "python3", "-c", _SENSORS)
    there = run_program([sys.executable, "-c", _SENSORS])
    print(f"sensors    {here.strip()}")
    if here != there:
        faults.append(f"the container has the sensors {here.strip()}, this machine {there.strip()}")
    engine.run("kill", "--signal=HUP", "edge-agent")
    begun = time.monotonic()
    engine.run("stop", "edge-agent")
    print(f"stop       {time.monotonic() - begun:.1f} s")
    return faults


def _answers(bus: Bus, readings: Sequence[str]) -> list[tuple[str, Any, dict[str, float]]]:
    """The task, output and scores of each reading, and of one reading's diagnosis and explanation."""
    asked = [
        *((demo.TRIAGE, reading) for reading in readings),
        (demo.DIAGNOSIS, readings[0]),
        (demo.EXPLANATION, readings[0]),
    ]
    answers = []
    for task, reading in asked:
        reply = ask(bus, task, json.loads(reading), deadline_ms=_DEADLINE_MS, fields={})
        answers.append((task, reply["output"] if reply["status"] == "ok" else reply["error"], reply["scores"] or {}))
    return answers


def _differ(here: tuple[str, Any, dict[str, float]], there: tuple[str, Any, dict[str, float]]) -> bool:
    if here[:2] != there[:2]:
        return True
    return any(abs(here[2][label] - score) > MAX_SCORE_DIFFERENCE for label, score in there[2].items())


if __name__ == "__main__":
    raise SystemExit(main())
