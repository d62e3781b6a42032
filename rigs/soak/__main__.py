"""`python -m rigs.soak`: the agent under a factory's load, watched from outside.

By the clock (--minutes, at --rate requests a second), or by count, as fast as it goes (--requests). Exit code 1 if a
limit does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rigs.soak.load import Load
from rigs.soak.page import page
from rigs.soak.place import Place, make_model, running
from rigs.soak.samples import Sample, sample
from rigs.soak.verdict import Facts, Line, verdict

EVERY_S = 1.0
# A night is drawn with as many points as a minute: further ones are left out.
MAX_SAMPLES = 4000
STUCK_AFTER_S = 120.0
SETTLE_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="instead: so many, as fast as it goes")
    parser.add_argument("--window", type=int, default=24, help="then: requests that are out at once")
    parser.add_argument("--model", type=Path, help="a bundle or .gguf (default: the demonstration's)")
    parser.add_argument("--engine", choices=("llama", "echo"), default="llama")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5")
    parser.add_argument("--journal", choices=("disk", "memory"), default="disk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="for the page, and the agent's log")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_model(given.engine, given.model, folder)
        samples: list[Sample] = []
        with running(folder, model, protocol=given.protocol, journal=given.journal) as place:
            load = Load(place.port, given.protocol, seed=given.seed)
            load.learn()
            began = time.monotonic()
            with suppress(KeyboardInterrupt):
                _run(given, place, load, samples)
            load.close()
            exit_code = place.agent.stop()
        log = place.agent.log
        (given.out / "agent.log").write_text(log, encoding="utf-8")
    facts = Facts(
        ledger=load.ledger.verdict(),
        torn_streams=load.torn_streams,
        visits=load.visits,
        visits_without_health=load.visits_without_health,
        exit_code=exit_code,
        errors=sum(line.startswith("ERROR") or "Traceback" in line for line in log.splitlines()),
        is_watched_for_drift=given.requests is None,
    )
    lines = verdict(samples, facts)
    title = f"{given.model or ('echo' if given.engine == 'echo' else 'demonstration model')}, MQTT {given.protocol}, "
    title += f"{facts.ledger.answered} answers in {time.monotonic() - began:.0f} s"
    (given.out / "soak.html").write_text(page(title, samples, lines), encoding="utf-8")
    _print(title, lines, facts, load)
    print(f"drawn in {given.out / 'soak.html'}")
    return 0 if all(line.holds for line in lines) else 1


def _run(given: argparse.Namespace, place: Place, load: Load, samples: list[Sample]) -> None:
    """Asks and watches until it is time, and everything is answered."""
    began = sampled_at = changed_at = time.monotonic()
    asked = answered = 0
    every_s = EVERY_S
    while True:
        now = time.monotonic()
        if given.requests is not None:
            due = min(given.window - load.unanswered, given.requests - asked)
            is_over = asked >= given.requests
        else:
            due = int((min(now - began, given.minutes * 60)) * given.rate) - asked
            is_over = now - began >= given.minutes * 60
        if due > 0:
            load.ask_some(due)
            asked += due
        load.tick(now, has_bursts=given.requests is None and not is_over)
        if load.ledger.answered != answered:
            answered, changed_at = load.ledger.answered, now
        if now - sampled_at >= every_s:
            sampled_at = now
            samples.append(
                sample(
                    place,
                    at_s=now - began,
                    answered=answered,
                    unanswered=load.unanswered,
                    latency_ms=load.take_latencies(),
                )
            )
            if len(samples) > MAX_SAMPLES:
                every_s *= 2
                samples[:] = _halved(samples)
            _show(samples[-1], load)
        if is_over and (not load.unanswered or now - changed_at > STUCK_AFTER_S):
            break
        if now - changed_at > STUCK_AFTER_S:
            print("\nnothing is answered any more", file=sys.stderr)
            break
        time.sleep(0.005)
    # What comes twice, and what is given back when all is quiet.
    quiet_until = time.monotonic() + SETTLE_S
    while time.monotonic() < quiet_until:
        time.sleep(EVERY_S / 2)
        at_s = time.monotonic() - began
        samples.append(sample(place, at_s=at_s, answered=answered, unanswered=load.unanswered, latency_ms={}))


def _halved(samples: list[Sample]) -> list[Sample]:
    """Every second one; none of the latencies is left out."""
    halved = []
    for one, other in zip(samples[::2], samples[1::2], strict=False):
        for kind, latencies in one.latency_ms.items():
            other.latency_ms.setdefault(kind, []).extend(latencies)
        halved.append(other)
    return halved


def _show(one: Sample, load: Load) -> None:
    if sys.stderr.isatty():
        worker = "-" if one.worker is None else f"{one.worker.resident_mib:.0f}"
        text = f"\r{one.at_s:6.0f} s  {one.answered} answered  {one.unanswered} wait  "
        text += f"agent {one.agent.resident_mib:.1f} MiB  worker {worker} MiB  wrong {load.ledger.verdict().wrong} "
        print(text, end="", file=sys.stderr, flush=True)


def _print(title: str, lines: list[Line], facts: Facts, load: Load) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(title)
    print("asked: " + ", ".join(f"{count} {kind}" for kind, count in sorted(load.asked.items())))
    print("ended: " + ", ".join(f"{count} {status}" for status, count in sorted(facts.ledger.statuses.items())))
    width = max(len(line.name) for line in lines)
    for line in lines:
        print(f"{'ok  ' if line.holds else 'FAIL'}  {line.name:{width}}  {line.value:34}  {line.limit}")
    for note in load.ledger.notes:
        print(f"      {note}")


if __name__ == "__main__":
    sys.exit(main())
