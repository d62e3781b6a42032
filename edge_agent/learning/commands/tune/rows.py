"""Files of inputs with and without their right labels: JSON lines, or CSV with a header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.core.labelled import label_of, labelled_csv
from edge_agent.core.strict_json import NotJsonError, compact_json, parse_json
from edge_agent.core.wording import shown

_MOST_FAULTS = 20
# What `edge-agent rows` writes beside an input and its answer.
_BESIDE = ("task", "ts")


class RowsError(Exception):
    """The file cannot be used. Each of `faults` names file and line, the value and what is allowed."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Row:
    """An input, as a request has it, and its right label."""

    input: Any
    answer: str


def read_labelled(path: Path, task: str, labels: Sequence[str]) -> list[Row]:
    """Rows with distinct inputs. Raises RowsError with all faults.

    JSON lines of `{"input": …, "answer": …}`; or CSV with a column `answer` (else `label`), and either a column `input`
    or others, which make an object. JSON lines may have `task` and `ts` beside them, as `edge-agent rows` writes them.
    """
    lines = _csv_lines(path) if path.suffix.lower() == ".csv" else _json_lines(path)
    rows, faults = dict[str, Row](), list[str]()
    for where, value in lines:
        if not isinstance(value, dict) or value.keys() - _BESIDE != {"input", "answer"}:
            rule = 'should be {"input": …, "answer": …}, with "task" and "ts" or without'
            faults.append(f"{where}: {rule} (got {shown(value)})")
        elif value.get("task", task) != task:
            faults.append(f"{where}: task: should be {task} (got {shown(value['task'])})")
        elif not _is_input(value["input"]):
            faults.append(f"{where}: input: should be a text, an object or an array (got {shown(value['input'])})")
        elif (answer := label_of(value["answer"], labels)) is None:
            faults.append(f"{where}: answer: should be one of {', '.join(labels)} (got {shown(value['answer'])})")
        elif rows.setdefault(compact_json(value["input"]), row := Row(value["input"], answer)) != row:
            faults.append(f"{where}: answer: the same input has another one before (got {shown(answer)})")
    if faults:
        more = len(faults) - _MOST_FAULTS
        raise RowsError([*faults[:_MOST_FAULTS], *([f"{path}: {more} more faults"] if more > 0 else [])])
    return list(rows.values())


def read_inputs(path: Path) -> list[Any]:
    """Inputs, one a line: JSON, or text as it stands. Raises RowsError."""
    found = []
    for _, line in _lines(path):
        try:
            value = parse_json(line)
        except NotJsonError:
            value = line
        found.append(value if _is_input(value) else line)
    return found


def read_wordings(path: Path) -> list[str]:
    """Texts, one a line. Raises RowsError."""
    return [line for _, line in _lines(path)]


def _is_input(value: object) -> bool:
    return isinstance(value, str | dict | list)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RowsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RowsError([f"{path}: is not UTF-8: {error.reason} at byte {error.start}"]) from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each after its place."""
    # Not splitlines: texts may hold other separators than the end of a line.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(path):
        try:
            yield where, parse_json(line)
        except NotJsonError as error:
            raise RowsError([f"{where}: should be a line of JSON: {error} (got {shown(line)})"]) from error


def _csv_lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield from labelled_csv(_text(path), str(path))
    except ValueError as error:
        raise RowsError([str(error)]) from error
