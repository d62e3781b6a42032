"""What 500 messages a second for 4,096 values cost the agent, and the callers that ask it meanwhile.

Two agents with the same model are measured in turn, one with signals and one without. A plant publishes to both brokers
all the time, so both agents share the machine with it. Exit code 1 if a figure misses its target.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from rigs.bench.agent import AgentSide, running_agent, workload_tasks
from rigs.bench.asking import ask_all
from rigs.bench.workload import Kind, readings
from rigs.machine import held_mib, model_path, parser_of

MACHINES, VALUES = 128, 32
MAX_SHARE_OF_CORE, MAX_MIB, MIN_SPEED = 0.15, 20.0, 0.95
SIGNALS = "".join(
    [
        f"[signals.plant]\nwindow_s = 600\nevery_s = 0\nmax_machines = {MACHINES}\n",
        "[signals.plant.trigger]\non_change = ['v0']\ndead_band = {v0 = 1e9}\n[signals.plant.values]\n",
        *(f"v{number} = {{ topic = 'plant/+/v{number}' }}\n" for number in range(VALUES)),
    ]
)
PLANT = """
import sys, time, random
import paho.mqtt.client as paho
client = paho.Client(paho.CallbackAPIVersion.VERSION2)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_start()
rate, number, began = float(sys.argv[2]), 0, time.monotonic()
while True:
    client.publish(f"plant/m{number % 128}/v{number // 128 % 32}", f"{random.gauss(5, 1):.3f}")
    number += 1
    time.sleep(max(0.0, began + number / rate - time.monotonic()))
"""


@contextmanager
def plant(port: int, rate: float) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", PLANT, str(port), str(rate)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def own_cpu_s(pid: int) -> float:
    """CPU time of the agent's own process, because the worker does not know of signals."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def share_of_core(side: AgentSide, seconds: float) -> float:
    before = own_cpu_s(side.pid)
    time.sleep(seconds)
    return (own_cpu_s(side.pid) - before) / seconds


def speed(side: AgentSide, requests: int, seed: str) -> float:
    return ask_all(side, Kind.CLASSIFY, readings(requests, seed=seed), clients=8).requests_per_s


def main(words: list[str]) -> int:
    parser = parser_of("rigs.signals load", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf")
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=200, help="in each turn (default: %(default)s)")
    options: argparse.Namespace = parser.parse_args(words)
    tasks = workload_tasks([Kind.CLASSIFY])
    ratios, shares = [], list[tuple[float, float]]()
    with (
        TemporaryDirectory() as one,
        TemporaryDirectory() as other,
        running_agent(options.model, Path(one), tasks + SIGNALS, {}, name="with signals") as joining,
        running_agent(options.model, Path(other), tasks, {}, name="without") as plain,
    ):
        before_mib = held_mib(joining.pid) - held_mib(plain.pid)
        for number in range(options.rounds):
            with plant(joining.client.port, options.rate), plant(plain.client.port, options.rate):
                # All windows exist after a cycle of 4,096 messages.
                time.sleep(10 if number == 0 else 1)
                shares.append((share_of_core(joining, 5.0), share_of_core(plain, 5.0)))
                order = (joining, plain, plain, joining)
                turns = [(side, speed(side, options.requests, f"{number} {turn}")) for turn, side in enumerate(order)]
                by_side = {side.name: [rate for of, rate in turns if of is side] for side in (joining, plain)}
                ratios.append(sum(by_side["with signals"]) / sum(by_side["without"]))
                print(f"round {number + 1}: {shares[-1][0]:.1%} of a core, speed × {ratios[-1]:.2f}", flush=True)
        health = joining.client.exchange("edgeai/v1/bench/board/cmd/health", b"", "edgeai/v1/bench/board/health")
        machines = health.json["signals"]["plant"]["machines"]
        added_mib = held_mib(joining.pid) - held_mib(plain.pid)
    of_core = statistics.median(mine - plain_share for mine, plain_share in shares)
    ratio = statistics.median(ratios)
    print(f"{machines} machines × {VALUES} values, {options.rate:g} messages a second:")
    print(f"{of_core:.1%} of a core more than without signals (at most {MAX_SHARE_OF_CORE:.0%})")
    print(f"{added_mib:.1f} MiB more ({before_mib:.1f} at the start; at most {MAX_MIB:g})")
    print(f"speed of other callers × {ratio:.3f} [{min(ratios):.2f}–{max(ratios):.2f}] (at least {MIN_SPEED})")
    is_good = of_core <= MAX_SHARE_OF_CORE and added_mib <= MAX_MIB and ratio >= MIN_SPEED and machines == MACHINES
    return 0 if is_good else 1
