"""`edge-agent rows`: the kept answers with feedback and their inputs, as rows for `edge-convert train`.

Because the agent keeps the database locked, a copy of it is read, with the commits of its WAL.
"""

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.labelled import RowsError, write_rows
from edge_agent.core.strict_json import parse_json
from edge_agent.core.terminal import fail
from edge_agent.core.wording import printable, printable_json
from edge_agent.learning.answers import KeptAnswer, Select, read_answers
from edge_agent.loader import load_config
from edge_agent.store.database import FILE, STORE_ERRORS, WAL_SUFFIX, connect
from edge_agent.tools.tasks import TaskError, task_with_feedback

_ATTEMPTS = 5
# The WAL's header, which changes when the WAL is begun anew.
_WAL_HEADER_BYTES = 32
# Why an answer makes no row, by its name in --json.
_REASONS = {
    "later": "given after --until",
    "no_feedback": "no feedback",
    "no_label": "marked wrong, without the right label",
    "other_label": "the right label is no longer one of the task's",
    "no_input": "no input kept",
    "repeated": "the same input and label as a newer one",
    "contradicted": "the same input as a newer one, with another label; the newest counts",
}


class NotReadError(Exception):
    """No kept answers can be read; the message says why."""


@contextmanager
def open_kept(config: Config, task: str) -> Iterator[tuple[TaskBase, Select]]:
    """The task, and access to the answers that this board keeps.

    Raises NotReadError, also instead of the body's STORE_ERRORS.
    """
    try:
        table = task_with_feedback(config, task)
    except TaskError as error:
        raise NotReadError(str(error)) from error
    if not config.feedback.enabled:
        raise NotReadError("feedback.enabled is false: the board keeps no answers")
    if config.queue.journal == "memory":
        raise NotReadError('queue.journal is "memory": no answers are kept on disk')
    path = config.state_dir / FILE
    try:
        with snapshot(path) as select:
            yield table, select
    except FileNotFoundError as error:
        raise NotReadError(f"{path}: there is no database yet; the agent creates it when it runs") from error
    except PermissionError as error:
        words = "this account may not read it; run this as root or as the service's account"
        raise NotReadError(f"{path}: {words}") from error
    except STORE_ERRORS as error:
        raise NotReadError(f"{path}: cannot be read: {error}") from error


def rows(config_path: Path, task: str, out: Path, *, until: float | None, force: bool, as_json: bool) -> int:
    """Writes the rows, and prints how many; returns the exit code. Raises ConfigError.

    `until` is in seconds since 1970.
    """
    config = load_config(config_path)
    try:
        with open_kept(config, task) as (table, select):
            answers = read_answers(select, task)
    except NotReadError as error:
        return fail(str(error))
    earlier = [answer for answer in answers if until is None or answer.wall_s <= until]
    kept, left_out = rows_of(task, earlier, table)
    left_out["later"] = len(answers) - len(earlier)
    for reason, words in _REASONS.items():
        if count := left_out[reason]:
            print(f"left out {count}: {words}", file=sys.stderr)
    if not kept:
        needs = "feedback, a right label and its input"
        off = "" if config.feedback.keep_inputs else "; feedback.keep_inputs is false: no inputs are kept"
        return fail(f"no rows written: no kept answer of task {task} has {needs}{off}")
    try:
        write_rows(out, kept, force=force)
    except RowsError as error:
        return fail("\n".join(error.faults))
    counts = Counter(row["answer"] for row in kept if isinstance(row["answer"], str))
    by_label = {label: counts[label] for label in table.choices or counts}
    if as_json:
        reasons = {reason: left_out[reason] for reason in _REASONS}
        print(printable_json({"task": task, "rows": len(kept), "labels": by_label, "left_out": reasons}))
    else:
        listed = ", ".join(f"{label} {count}" for label, count in by_label.items())
        print(printable(f"{out}: {len(kept)} rows{': ' if listed else ''}{listed}"))
    return 0


def rows_of(task: str, answers: Sequence[KeptAnswer], config: TaskBase) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows, the oldest first, and how many answers make none, by reason.

    `answers` have the oldest first. `config` is the task's now; a right label counts whichever model answered.
    """
    newest: dict[str, dict[str, Any]] = {}
    left_out = Counter[str]()
    for answer in reversed(answers):
        label, value = config.canonical_answer(answer.label), kept_input(answer)
        reason = _lack(answer, label, value)
        if reason is None:
            taken_at = timestamp(answer.wall_s)
            # Without a clock, an answer has no time.
            time = {} if taken_at is None else {"ts": taken_at}
            machine = {} if answer.machine is None else {"machine": answer.machine}
            row = {"task": task, "id": parse_json(answer.id), **time, **machine, "input": value, "answer": label}
            newer = newest.setdefault(json.dumps(value, sort_keys=True), row)
            if newer is row:
                continue
            reason = "repeated" if newer["answer"] == label else "contradicted"
        left_out[reason] += 1
    return [*reversed(newest.values())], left_out


def _lack(answer: KeptAnswer, label: Any, value: Any) -> str | None:
    """Why an answer makes no row; None if it makes one.

    `label` is the right one, if the task has it, and `value` the input.
    """
    if not answer.is_marked:
        return "no_feedback"
    if answer.label is None:
        return "no_label"
    if label is None:
        return "other_label"
    return "no_input" if value is None else None


def kept_input(answer: KeptAnswer) -> Any:
    """The input; None where it was not kept, or damage has changed it."""
    try:
        return None if answer.input is None else parse_json(answer.input.decode())
    except ValueError:
        return None


@contextmanager
def snapshot(path: Path) -> Iterator[Select]:
    """The database as of its last commit, also while the agent runs; takes no lock and writes nothing beside it.

    Until the body ends, a copy is in the folder for temporary files, for its owner alone. Raises STORE_ERRORS.
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as folder:
        copy = Path(folder) / path.name
        for _ in range(_ATTEMPTS):
            before = _generation(path)
            # The file first, as what a checkpoint later writes into it is also in the WAL, unless that begins anew.
            shutil.copyfile(path, copy)
            try:
                shutil.copyfile(_wal(path), _wal(copy))
            except FileNotFoundError:  # The agent has stopped.
                _wal(copy).unlink(missing_ok=True)
            if _generation(path) == before:
                break
        else:
            raise OSError("the agent writes too much at the moment; try again")
        with closing(connect(copy)) as connection:
            yield lambda statement, *values: connection.execute(statement, values).fetchall()


def _generation(path: Path) -> tuple[object, ...]:
    """Identifies this file and WAL. Copies made while it stays the same have all commits together. Raises OSError."""
    try:
        with _wal(path).open("rb") as file:
            header = file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    status = path.stat()
    # Without a WAL, only the file says whether it was written.
    return (status.st_ino, header, None if header else status.st_mtime_ns)


def _wal(path: Path) -> Path:
    return path.with_name(path.name + WAL_SUFFIX)
