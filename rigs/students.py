"""What a student gains: the large model alone, and with the student before it, on the same labelled rows in turns.

`python -m rigs.students LARGE BOTH --tasks CONFIG --warm-up ROWS --test ROWS`: LARGE is a bundle, BOTH its copy with a
student (`edge-convert students`). The rows of the warm-up are asked until the audits prove the student. Then the test
rows are asked in parts, by eight clients over mosquitto. Where the task has `min_accuracy`, they answer
`please_check` with the right label. Exits with 1 if BOTH answers less than five times as many a second, or is right
less often than LARGE.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.core.strict_json import parse_json
from edge_agent.requests.task_tables import load_task_configs
from edge_agent.tools.demo.broker import free_port
from rigs.bench.figures import Figures
from rigs.machine import model_path, parser_of, require
from rigs.round_trip import Asker
from tests.helpers.processes import Mosquitto
from tests.helpers.site import Site, running_site

_CLIENTS = 8
_LEAST_RATIO = 5.0
_ROUNDS = 4
_MORE = "[health]\ninterval_s = 1\n[feedback]\nenabled = true\n"


@dataclass(frozen=True, slots=True)
class _Row:
    input: Any
    answer: str


class _Side:
    """An agent and its clients."""

    def __init__(self, stack: ExitStack, model: Path, task: str, table: str) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(Mosquitto(folder, free_port(), "set_tcp_nodelay true\n")).port
        self.site: Site = stack.enter_context(
            running_site(folder, port, "5", model=str(model.absolute()), more=f"{table}{_MORE}", timeout_s=300.0)
        )
        self._task = task
        self._askers = [Asker(self.site, task, f"{number}", has_nodelay=True, qos=1) for number in range(_CLIENTS)]
        for asker in self._askers:
            stack.callback(asker.close)
        self._pool = stack.enter_context(ThreadPoolExecutor(_CLIENTS))

    def ask(self, rows: Sequence[_Row]) -> tuple[float, list[tuple[float, dict[str, Any]]]]:
        """Requests a second; waited ms and reply of each row."""
        began = time.monotonic()
        replies: list[Any] = [None] * len(rows)

        def ask_part(number: int) -> None:
            replies[number::_CLIENTS] = [self._ask(self._askers[number], row) for row in rows[number::_CLIENTS]]

        list(self._pool.map(ask_part, range(_CLIENTS)))
        return len(rows) / (time.monotonic() - began), replies

    def _ask(self, asker: Asker, row: _Row) -> tuple[float, dict[str, Any]]:
        waited_ms, reply = asker.reply(row.input)
        if "please_check" in reply:
            mark = {"id": reply["id"], "reply_to": asker.reply_to, "answer": row.answer}
            self.site.client.publish(f"{self.site.base}/infer/{self._task}/feedback", json.dumps(mark))
        return waited_ms, reply

    def student(self) -> dict[str, Any]:
        """What health says of it now."""
        time.sleep(1.5)
        health = json.loads(self.site.client.on(f"{self.site.base}/health")[-1].payload)
        found: dict[str, Any] = health["students"][self._task]
        return found


def main() -> int:
    parser = parser_of("rigs.students", __doc__)
    parser.add_argument("large", metavar="LARGE", type=model_path)
    parser.add_argument("both", metavar="BOTH", type=model_path)
    parser.add_argument("--tasks", metavar="CONFIG", type=Path, required=True, help="with one task, at its end")
    parser.add_argument("--warm-up", metavar="ROWS", type=Path, required=True, help="JSON lines with input and answer")
    parser.add_argument("--test", metavar="ROWS", type=Path, required=True, help="JSON lines with input and answer")
    options = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    [name] = load_task_configs(options.tasks)
    text = options.tasks.read_text("utf-8")
    table = text[text.index(f"[tasks.{name}]") :] + "\n"
    warm_up, test = _rows(options.warm_up), _rows(options.test)
    figures = Figures()
    with ExitStack() as stack:
        # Without a promise, the large model gives all of its answers.
        without = re.sub(r"^(min_accuracy|audit_rate) = .*$", "", table, flags=re.MULTILINE)
        alone = _Side(stack, options.large, name, without)
        both = _Side(stack, options.both, name, table)
        asked = 0
        for part in _parts(warm_up, 50):
            both.ask(part)
            asked += len(part)
            if (state := both.student())["least_score"] is not None:
                break
        print(f"after {asked} requests: {state}", flush=True)
        of_alone, of_both = list[Any](), list[Any]()
        for part in _parts(test, -(-len(test) // _ROUNDS)):
            rate_alone, replies_alone = alone.ask(part)
            rate_both, replies_both = both.ask(part)
            figures.note("requests, large alone", rate_alone, "/s")
            figures.note("requests, student first", rate_both, "/s")
            figures.note("ratio", rate_both / rate_alone, at_least=_LEAST_RATIO)
            of_alone += replies_alone
            of_both += replies_both
        state = both.student()
    by_student = [reply["model"]["name"] != "default" for _, reply in of_both]
    figures.note("answered by the student", statistics.mean(by_student))
    waited = [ms for (ms, _), is_student in zip(of_both, by_student, strict=True) if is_student]
    figures.note("a student's answer, median", statistics.median(waited) if waited else float("nan"), "ms")
    alike = [one["output"] == other["output"] for (_, one), (_, other) in zip(of_alone, of_both, strict=True)]
    figures.note("same answer as the large model", statistics.mean(alike))
    of_students = [is_alike for is_alike, is_student in zip(alike, by_student, strict=True) if is_student]
    figures.note("same, of the student's answers", statistics.mean(of_students) if of_students else float("nan"))
    right_alone, right_both = (_share_right(replies, test) for replies in (of_alone, of_both))
    figures.note("right, large alone", right_alone)
    figures.note("right, student first", right_both, at_least=right_alone)
    print(state, figures.table(), sep="\n")
    return 0 if figures.are_met else 1


def _rows(path: Path) -> list[_Row]:
    documents = [parse_json(line) for line in path.read_text("utf-8").splitlines()]
    return [_Row(one["input"], one["answer"]) for one in documents]


def _parts(rows: Sequence[_Row], size: int) -> list[Sequence[_Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _share_right(replies: Iterable[tuple[float, dict[str, Any]]], rows: Sequence[_Row]) -> float:
    return statistics.mean(float(reply["output"] == row.answer) for (_, reply), row in zip(replies, rows, strict=True))


if __name__ == "__main__":
    sys.exit(main())
