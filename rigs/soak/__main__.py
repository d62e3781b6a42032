"""`python -m rigs.soak`: the agent under a factory's load, watched from outside.

By time (--minutes, at --rate requests a second), or by count, as fast as possible (--requests). The exit code is 1 if
a limit does not hold. Short form: `--engine echo --requests 100`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from edge_agent.core.terminal import aligned
from rigs.machine import require
from rigs.soak.factory import Factory
from rigs.soak.samples import Sample, take_sample
from rigs.soak.site import running
from rigs.soak.verdict import verdict
from tests.helpers.bundles import convert_demo_model
from tests.helpers.processes import AgentProcess

EVERY_S = 1.0
ECHO = "echo:step_ms=2"
# How many requests are in flight at once with --requests.
WINDOW = 24
STUCK_AFTER_S = 120.0
SETTLE_S = 5.0
_WORDS = {True: "ok  ", False: "FAIL", None: "-   "}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="instead: this many, as fast as possible")
    parser.add_argument("--model", type=Path, help="a bundle or .gguf (default: the demonstration's)")
    parser.add_argument("--engine", choices=("llama", "echo"), default="llama")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="for samples and the agent's log")
    options = parser.parse_args(arguments)
    require({"mosquitto": "mosquitto"})
    options.out.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.engine == "echo":
            model = ECHO
        else:
            model = str((options.model or convert_demo_model(Path(folder), "q8_0")).resolve())
        with running(Path(folder), model, options.protocol) as (port, agent):
            load = Factory(port, options.protocol)
            load.learn()
            with suppress(KeyboardInterrupt):
                _run(options, agent, load, samples)
            load.close()
            exit_code = agent.stop()
        log = agent.log
    (options.out / "agent.log").write_text(log, encoding="utf-8")
    lines = "".join(f"{json.dumps(asdict(one))}\n" for one in samples)
    (options.out / "samples.jsonl").write_text(lines, encoding="utf-8")
    errors = sum(" ERROR " in line or "Traceback" in line for line in log.splitlines())
    others = {"torn streams": load.torn_streams, "errors in the log": errors, "exit code": exit_code}
    checks = verdict(samples, load.ledger.counts() | others)
    print("asked: " + ", ".join(f"{count} {kind}" for kind, count in sorted(load.asked.items())))
    print("ended: " + ", ".join(f"{count} {status}" for status, count in sorted(load.ledger.statuses.items())))
    print(*aligned([(_WORDS[one.holds], one.name, one.value, one.limit) for one in checks], left=4), sep="\n")
    print(*load.ledger.notes, f"samples and log: {options.out}", sep="\n")
    return int(any(check.holds is False for check in checks))


def _run(options: argparse.Namespace, agent: AgentProcess, load: Factory, samples: list[Sample]) -> None:
    """Asks and watches until the run is over and everything is answered."""
    began = sampled_at = changed_at = time.monotonic()
    asked = answered = 0
    has_rate = options.requests is None
    is_over = False
    while not (is_over and not load.ledger.unanswered):
        now = time.monotonic()
        if has_rate:
            due = int(min(now - began, options.minutes * 60) * options.rate) - asked
            is_over = now - began >= options.minutes * 60
        else:
            due = min(WINDOW - load.ledger.unanswered, options.requests - asked)
            is_over = asked >= options.requests
        if due > 0:
            load.ask_for(due)
            asked += due
        load.tick(now, has_bursts=has_rate and not is_over)
        if load.ledger.answered != answered:
            answered, changed_at = load.ledger.answered, now
        if now - sampled_at >= EVERY_S:
            sampled_at = now
            samples.append(take_sample(agent, load.ledger, now - began))
            if sys.stderr.isatty():
                print(f"\r{now - began:6.0f} s  {answered} answered ", end="", file=sys.stderr, flush=True)
        if now - changed_at > STUCK_AFTER_S:
            print("\nthere are no more answers", file=sys.stderr)
            break
        time.sleep(0.005)
    # Replies that come twice, and memory that is returned when all is quiet.
    quiet_until = time.monotonic() + (SETTLE_S if has_rate else 1.0)
    while time.monotonic() < quiet_until:
        time.sleep(0.5)
        samples.append(take_sample(agent, load.ledger, time.monotonic() - began))


if __name__ == "__main__":
    sys.exit(main())
