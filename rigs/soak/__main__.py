"""`python -m rigs.soak`: the agent under a factory's load, watched from outside.

By time (--minutes, at --rate requests a second), or by count, as fast as possible (--requests). The exit code is 1 if
a limit does not hold. Short form: `--engine echo --requests 100`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rigs.soak.load import Load
from rigs.soak.place import Place, make_model, running
from rigs.soak.samples import Sample, take_sample
from rigs.soak.verdict import Check, Facts, verdict

EVERY_S = 1.0
# A longer run halves its samples, so that they fit into memory.
MAX_SAMPLES = 4000
STUCK_AFTER_S = 120.0
SETTLE_S = 5.0
_WORDS = {True: "ok  ", False: "FAIL", None: "-   "}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="instead: this many, as fast as possible")
    parser.add_argument("--window", type=int, default=24, help="then: requests in flight at once")
    parser.add_argument("--model", type=Path, help="a bundle or .gguf (default: the demonstration's)")
    parser.add_argument("--engine", choices=("llama", "echo"), default="llama")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5")
    parser.add_argument("--journal", choices=("disk", "memory"), default="disk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="for samples.csv and the agent's log")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(options.engine, options.model, Path(folder))
        with running(Path(folder), model, protocol=options.protocol, journal=options.journal) as place:
            load = Load(place.port, options.protocol, seed=options.seed)
            load.learn()
            with suppress(KeyboardInterrupt):
                _run(options, place, load, samples)
            load.close()
            exit_code = place.agent.stop()
        log = place.agent.log
    (options.out / "agent.log").write_text(log, encoding="utf-8")
    _write_csv(options.out / "samples.csv", samples)
    errors = sum(line.startswith("ERROR") or "Traceback" in line for line in log.splitlines())
    facts = Facts(load.ledger.verdict(), load.torn_streams, exit_code, errors)
    checks = verdict(samples, facts, has_steady_rate=options.requests is None)
    _print(checks, facts, load)
    print(f"samples and log: {options.out}")
    return int(any(check.holds is False for check in checks))


def _run(options: argparse.Namespace, place: Place, load: Load, samples: list[Sample]) -> None:
    """Asks and watches until the run is over and everything is answered."""
    began = sampled_at = changed_at = time.monotonic()
    asked = answered = 0
    every_s = EVERY_S
    while True:
        now = time.monotonic()
        if options.requests is not None:
            due = min(options.window - load.unanswered, options.requests - asked)
            is_over = asked >= options.requests
        else:
            due = int(min(now - began, options.minutes * 60) * options.rate) - asked
            is_over = now - began >= options.minutes * 60
        if due > 0:
            load.ask(due)
            asked += due
        load.tick(now, has_bursts=options.requests is None and not is_over)
        if load.ledger.answered != answered:
            answered, changed_at = load.ledger.answered, now
        if now - sampled_at >= every_s or (is_over and not load.unanswered):
            sampled_at = now
            samples.append(_sample(place, load, now - began))
            if len(samples) > MAX_SAMPLES:
                every_s *= 2
                samples[:] = _halved(samples)
            _show(samples[-1])
        if is_over and not load.unanswered:
            break
        if now - changed_at > STUCK_AFTER_S:
            print("\nthere are no more answers", file=sys.stderr)
            break
        time.sleep(0.005)
    # Replies that come twice, and memory that is returned when all is quiet.
    quiet_until = time.monotonic() + (SETTLE_S if options.requests is None else EVERY_S)
    while time.monotonic() < quiet_until:
        time.sleep(EVERY_S / 2)
        samples.append(_sample(place, load, time.monotonic() - began))


def _sample(place: Place, load: Load, at_s: float) -> Sample:
    return take_sample(
        place,
        at_s=at_s,
        answered=load.ledger.answered,
        unanswered=load.unanswered,
        latency_ms=load.drain_latencies(),
    )


def _halved(samples: list[Sample]) -> list[Sample]:
    """Every second sample, with the latencies of both."""
    halved = []
    for one, other in zip(samples[::2], samples[1::2], strict=False):
        for kind, latencies in one.latency_ms.items():
            other.latency_ms.setdefault(kind, []).extend(latencies)
        halved.append(other)
    return halved


def _write_csv(path: Path, samples: list[Sample]) -> None:
    """One line for each sample, for a spreadsheet; latencies as their number and sum."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        header = ["at_s", "answered", "unanswered", "state_bytes", "log_bytes"]
        parts = ("resident_mib", "anonymous_mib", "threads", "files")
        writer.writerow([*header, *(f"{name}_{part}" for name in ("agent", "worker") for part in parts)])
        for one in samples:
            row = asdict(one)
            processes = (row["agent"], row["worker"] or {})
            writer.writerow(
                [*(row[name] for name in header), *(each.get(part) for each in processes for part in parts)]
            )


def _show(one: Sample) -> None:
    if sys.stderr.isatty():
        worker = "-" if one.worker is None else f"{one.worker.resident_mib:.0f}"
        text = f"\r{one.at_s:6.0f} s  {one.answered} answered  {one.unanswered} in flight  "
        text += f"agent {one.agent.resident_mib:.1f} MiB  worker {worker} MiB "
        print(text, end="", file=sys.stderr, flush=True)


def _print(checks: list[Check], facts: Facts, load: Load) -> None:
    print("asked: " + ", ".join(f"{count} {kind}" for kind, count in sorted(load.asked.items())))
    print("ended: " + ", ".join(f"{count} {status}" for status, count in sorted(facts.ledger.statuses.items())))
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{_WORDS[check.holds]}  {check.name:{width}}  {check.value:34}  {check.limit}")
    for note in load.ledger.notes:
        print(f"      {note}")


if __name__ == "__main__":
    sys.exit(main())
