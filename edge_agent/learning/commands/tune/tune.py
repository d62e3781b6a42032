"""`edge-agent tune`: loads the configuration's model in a worker of its own, and prints what was found."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from edge_agent.core.labelled import RowsError, read_text, read_values, text_lines
from edge_agent.core.model import ModelError
from edge_agent.core.strict_json import NotJsonError, compact_json, parse_json
from edge_agent.core.terminal import StatusLine, fail
from edge_agent.core.wording import printable, shown
from edge_agent.learning.commands.tune import report
from edge_agent.learning.commands.tune.search import Search, TuneError, best_labels
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model
from edge_agent.models.record import in_force, trust_in_force
from edge_agent.requests.rows import TaskRow, check_required, read_rows
from edge_agent.requests.tasks import Task
from edge_agent.tools.tasks import TaskError, classify_task
from edge_agent.worker.client import WorkerError, started


def tune(options: argparse.Namespace) -> int:
    """Prints the table and writes the fragment; returns the exit code. Raises ConfigError."""
    until = monotonic() + 60 * options.minutes
    config = load_config(options.config)
    progress = StatusLine()
    if options.out is not None and options.out.exists() and not options.force:
        return fail(f"{options.out} exists; --force replaces it")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        return fail(f"{options.out.parent} is not a folder")
    try:
        table = classify_task(config, options.task)
        task, labels = Task(options.task, table), table.labels
        rows = None if options.labelled is None else read_labelled(options.labelled, task)
        unlabelled = [] if options.unlabelled is None else read_inputs(options.unlabelled)
        wordings = [] if options.wordings is None else read_lines(options.wordings)
        if not rows and not unlabelled:
            raise TuneError("no rows: give --labelled, or --unlabelled for what can be said without labels")
        progress.say("loading the model")
        configured = config.models["default"]
        model = open_model("default", in_force(config), trust_in_force(config), configured.chat_templates)
        if rows and not model.reads_fields:
            check_required(rows)
        with (
            tempfile.TemporaryDirectory(prefix="edge-agent-tune-") as folder,
            # As `run` does, with a state of its own.
            started(model.load_command(config.engine, state_dir=Path(folder))) as worker,
        ):
            worker.ready()
            if not rows:
                labels_by_prompt = best_labels(worker, task, unlabelled, until, progress.say)
                progress.clear()
                return _print_shares(labels_by_prompt, labels, as_json=options.json)
            search = Search(
                worker=worker,
                task=task,
                rows=rows,
                weights_sha256=model.weights_sha256,
                until=until,
                max_slower=options.max_slower,
                say=progress.say,
                unlabelled=unlabelled,
                wordings=wordings,
            )
            search.run()
    except RowsError as error:
        progress.clear()
        return max(fail(fault) for fault in error.faults)
    except (TuneError, TaskError, ModelError, WorkerError, OSError) as error:
        progress.clear()
        return fail(str(error))
    progress.clear()
    return _print(search, options)


def read_labelled(path: Path, task: Task) -> list[TaskRow]:
    """Rows with different inputs; prints how many rows repeat an input. Raises RowsError."""
    rows, faults = dict[str, TaskRow](), list[str]()
    all_rows = read_rows(path, {task.name: task}, is_labelled=True)
    for row in all_rows:
        if rows.setdefault(compact_json(row.input), row).answer != row.answer:
            faults.append(f"{row.where}: answer: the same input has another answer earlier (got {shown(row.answer)})")
    if faults:
        raise RowsError(faults)
    if len(rows) < len(all_rows):
        print(f"{len(rows)} of {len(all_rows)} rows count, because the others repeat an input", file=sys.stderr)
    return list(rows.values())


def read_inputs(path: Path) -> list[Any]:
    """Inputs without labels, in rows like those with labels, or one a line as JSON or text. Raises RowsError."""
    if path.suffix.lower() == ".csv":
        return [row["input"] for _, row in read_values(path, is_labelled=False)]
    inputs = []
    for line in read_lines(path):
        try:
            value = parse_json(line)
        except NotJsonError:
            value = line
        if isinstance(value, dict):
            value = value.get("input", value)
        inputs.append(value if isinstance(value, str | dict | list) else line)
    return inputs


def read_lines(path: Path) -> list[str]:
    """Texts, one a line. Raises RowsError."""
    return [line for _, line in text_lines(read_text(path), str(path))]


def _print_shares(best_by_name: dict[str, list[str]], labels: tuple[str, ...], *, as_json: bool) -> int:
    if as_json:
        counts = {name: {label: best.count(label) for label in labels} for name, best in best_by_name.items()}
        print(json.dumps({"best_labels": counts}, indent=2, ensure_ascii=False))
    else:
        print(*map(printable, report.shares(best_by_name, labels)), sep="\n")
        print("How often each label is best. Only labelled rows can tell which correction is right.")
    return 0


def _print(result: Search, options: argparse.Namespace) -> int:
    is_kept = result.chosen is result.reference
    chosen = result.chosen
    about = f"By `edge-agent tune`: right on {chosen.accuracy:.0%} of {len(chosen.rows)} rows, "
    about += f"before on {result.accuracy_before(chosen):.0%}."
    text = None if is_kept else report.fragment(result.task, chosen, result.weights_sha256, about)
    lines = [*report.table(result), "", *report.words(result, options.max_slower)]
    if options.json:
        print(json.dumps({**report.document(result), "fragment": text}, indent=2, ensure_ascii=False))
    else:
        print(*map(printable, lines), sep="\n")
    if text is None:
        return 0
    if options.out is not None:
        try:
            options.out.write_text(text, "utf-8")
        except OSError as error:
            return fail(f"{options.out}: {error.strerror}")
        print(printable(f"{options.out} written"), file=sys.stderr)
    elif not options.json:
        print("", text, sep="\n", end="")
    return 0
