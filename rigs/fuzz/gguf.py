"""Models with damaged headers: what passes the agent's check must not end llama.cpp.

`python -m rigs.fuzz.gguf MODEL.gguf --count 1000`: exit code 1 if a process was ended or hung.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edge_agent.core.protocol import EngineSettings, Failed, Load
from edge_agent.engine.llama import LoadError
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.gguf.header import HeaderError
from edge_agent.gguf.model import read_model_facts
from rigs.fuzz.mutations import mutated, read_parts
from rigs.machine import model_path
from tests.engine.runs import PLANS, TASK, answer_all, run

# Of one model, with all that is asked of it.
_STILL_S = 60
_SETTINGS = EngineSettings(context_tokens=256, max_active=2, threads=1, prefill_threads=1, batch_tokens=64)
ENDED = "ended"


def outcomes(model: Path, count: int, first: int = 0) -> Iterator[tuple[int, str, str]]:
    """Of each mutation: its number, what became of it, and why. A process that is ended is followed by another one."""
    number = first
    while number < first + count:
        words = [sys.executable, "-m", "rigs.fuzz.gguf", str(model), "--child"]
        words += ["--first", str(number), "--count", str(first + count - number)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            for line in child.stdout:
                found, outcome, why = line.rstrip("\n").split("\t", 2)
                assert int(found) == number
                yield number, outcome, why
                number += 1
            told = child.stderr.read()
        if child.returncode:
            yield number, ENDED, f"{child.returncode}: {' '.join(told.split())[-300:]}"
            number += 1


def _try_all(model: Path, first: int, count: int) -> None:
    """In a process that may be ended."""
    logging.disable(logging.CRITICAL)
    parts = read_parts(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        for number in range(first, first + count):
            path.write_bytes(mutated(parts, number))
            faulthandler.dump_traceback_later(_STILL_S, exit=True)
            outcome, why = _try(path)
            print(number, outcome, " ".join(why.split())[:300], sep="\t", flush=True)
            path.unlink()


def _try(path: Path) -> tuple[str, str]:
    try:
        read_model_facts(path)
    except HeaderError as error:
        return "refused", str(error)
    try:
        engine = LlamaEngine(Load(model_path=str(path), settings=_SETTINGS, tasks=(TASK,)), is_measured=False)
    except LoadError as error:
        return "not loaded", str(error)
    except Exception as error:  # noqa: BLE001 - the worker tells of any, and ends
        return "not opened", repr(error)
    try:
        events = answer_all(engine, *(run(at, "7 mm/s, hot", plan, max_tokens=40) for at, plan in enumerate(PLANS)))
    finally:
        engine.close()
    failed = [event.message for event in events if isinstance(event, Failed)]
    return ("failed", failed[0]) if failed else ("answered", "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.fuzz.gguf", description=__doc__)
    parser.add_argument("model", type=model_path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutation")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _try_all(given.model, given.first, given.count)
        return 0
    counts = Counter[str]()
    for number, outcome, why in outcomes(given.model, given.count, given.first):
        counts[outcome] += 1
        if outcome not in ("refused", "answered"):
            print(f"{number}: {outcome}: {why}")
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return 1 if counts[ENDED] else 0


if __name__ == "__main__":
    sys.exit(main())
