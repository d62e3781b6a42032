"""`edge-agent audits`: the answers that somebody should still check, with what the task was asked."""

import json
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.terminal import UNKNOWN, aligned, fail
from edge_agent.core.wording import printable, printable_json
from edge_agent.learning.answers import KeptAnswer, read_answers, read_open_audits
from edge_agent.learning.commands.rows import NotReadError, kept_input, open_kept
from edge_agent.loader import load_config

# The least width of an input's lines, also beside long ids.
_MIN_WIDTH = 30


def audits(config_path: Path, task: str, *, as_json: bool) -> int:
    """Prints the open audits, the oldest first, without the answers, which would bias people. Raises ConfigError."""
    config = load_config(config_path)
    try:
        with open_kept(config, task) as (table, select):
            answers = read_answers(select, task)
            found, outdated = read_open_audits(select, task, answers)
    except NotReadError as error:
        return fail(str(error))
    noticed = None if table.notable is None else _noticed(answers, table)
    if as_json:
        entries = list(map(_entry, found))
        counts = {"outdated": outdated} | ({} if noticed is None else {"noticed": noticed})
        print(printable_json({"task": task, "labels": list(table.choices) or None, **counts, "open": entries}))
        return 0
    left_out = f"; left out {outdated} that no longer count" if outdated else ""
    print(printable(f"open audits of {task}: {len(found)}{left_out}"))
    if noticed is not None:
        told = f"{noticed['answered']} of them answered, {noticed['real']} of these really {table.notable}"
        print(printable(f"{table.notable} readings kept with their inputs: {noticed['kept']}, {told}"))
    if found:
        _print_open(task, found, table.choices)
    if not config.feedback.keep_inputs and (found or noticed is not None):
        missing = "" if noticed is None else f", so {table.notable} readings are missing here"
        print(
            f"feedback.keep_inputs is false: no inputs are kept{missing}; `echo_input` puts them into replies instead"
        )
    return 0


def _print_open(task: str, found: Sequence[KeptAnswer], choices: Sequence[str]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    print("\n".join(_table(found, time.time(), width)))
    labels = ""
    if choices:
        # Of two labels, `--wrong` would say that the other one is right.
        none = "; or --wrong if none is right" if len(choices) > 2 else ""
        labels = f", where ANSWER is one of: {', '.join(choices)}{none}"
    print(printable(f"answer each with: edge-agent feedback {task} ID ANSWER --by NAME{labels}"))


def _noticed(answers: Sequence[KeptAnswer], task: TaskBase) -> dict[str, int]:
    """How many kept answers are notable, how many of them people have answered, and how many of these were real."""
    kept = [answer for answer in answers if answer.output == task.notable]
    said = [answer.label for answer in kept if answer.is_marked and answer.label is not None]
    return {"kept": len(kept), "answered": len(said), "real": sum(map(task.confirms_notable, said))}


def _entry(answer: KeptAnswer) -> dict[str, Any]:
    return {
        "id": json.loads(answer.id),
        "reply_to": answer.reply_topic,
        "at": timestamp(answer.wall_s),
        "machine": answer.machine,
        "input": kept_input(answer),
    }


def _table(found: Sequence[KeptAnswer], now: float, width: float) -> list[str]:
    """Shows whole inputs, wrapped to a terminal of this width."""
    head, *starts = aligned(
        [["ID", "TIME", "AGE", "MACHINE", "INPUT"], *(_row(answer, now) for answer in found)], left=5
    )
    column = head.index("INPUT")
    lines = [head]
    for answer, start in zip(found, starts, strict=True):
        value = kept_input(answer)
        text = UNKNOWN if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = printable(text) or UNKNOWN
        parts = textwrap.wrap(text, int(max(width - column, _MIN_WIDTH))) if column + len(text) > width else [text]
        lines += [f"{start if number == 0 else '':<{column}}{part}" for number, part in enumerate(parts)]
    return lines


def _row(answer: KeptAnswer, now: float) -> list[str]:
    name, machine = printable(str(json.loads(answer.id))), printable(answer.machine or UNKNOWN)
    return [name, _time(answer.wall_s, now), _age(now - answer.wall_s), machine, ""]


def _time(wall_s: float, now: float) -> str:
    """A time in this board's time zone, with the date unless it is today's."""
    if timestamp(wall_s) is None:
        return UNKNOWN
    day, today = (time.strftime("%Y-%m-%d ", time.localtime(seconds)) for seconds in (wall_s, now))
    return ("" if day == today else day) + time.strftime("%H:%M", time.localtime(wall_s))


def _age(seconds: float) -> str:
    for name, unit_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
